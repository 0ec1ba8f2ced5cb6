//! Tests of the chat templates. Expected texts were rendered by jinja2 with transformers' settings.

use super::*;
use crate::calibrate::dataset::{ImageSource, Role};

fn text(role: Role, text: &str, plain: bool) -> Message {
    Message { role, content: vec![Content::Text(text.into())], plain }
}

fn render(source: &str, messages: &[Message]) -> Result<String, PromptError> {
    let special = SpecialTokens { bos: Some("<s>".into()), eos: None };
    ChatTemplate::new(source, special, ContentForm::Parts)?.render(messages, true)
}

fn fixture() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/qwen2_vl/chat_template.json");
    let value: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    template_source(value.get("chat_template")).unwrap().unwrap()
}

#[test]
fn the_template_of_the_family_renders_images_history_and_plain_text() {
    let image = Content::Image(ImageSource::File("a.png".into()));
    let user =
        Message { role: Role::User, content: vec![image, Content::Text("What?".into())], plain: false };
    let messages = [user, text(Role::Assistant, "A cat.", true), text(Role::User, "Sure?", false)];
    let expected = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n\
        <|vision_start|><|image_pad|><|vision_end|>What?<|im_end|>\n<|im_start|>assistant\nA cat.<|im_end|>\n\
        <|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\n";
    assert_eq!(render(&fixture(), &messages).unwrap(), expected);
    let own_system = [text(Role::System, "Be brief.", true), text(Role::User, "Hi", true)];
    let expected = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n";
    let template = ChatTemplate::new(&fixture(), SpecialTokens::default(), ContentForm::Parts).unwrap();
    assert_eq!(template.render(&own_system, false).unwrap(), expected);
}

#[test]
fn blocks_are_trimmed_and_python_methods_work() {
    let source = "{{ bos_token }}{{ eos_token }}\n{% for m in messages %}\n    {% if loop.first %}\n\
        {{ m['content'].strip().split(' ')[0] + '|' + m.role.upper() }}\n    {% endif %}\n{% endfor %}\n";
    let out = render(source, &[text(Role::User, "  one two ", true)]).unwrap();
    assert_eq!(out, "<s>\none|USER\n");
}

#[test]
fn html_is_not_escaped_and_tojson_is_pythons() {
    let messages = [text(Role::User, "<b>'é'", false)];
    assert_eq!(render("{{ messages[0].content[0].text }}", &messages).unwrap(), "<b>'é'");
    let source = "{{ ['<b>', 1, true, none] | tojson }} {{ {'a': [1.5]} | tojson }} {{ {'a': [1]} | tojson(indent=2) }}";
    let expected = "[\"<b>\", 1, true, null] {\"a\": [1.5]} {\n  \"a\": [\n    1\n  ]\n}";
    assert_eq!(render(source, &messages).unwrap(), expected);
    assert!(render("{{ 1 | tojson(ensure_ascii=true) }}", &messages).is_err());
}

#[test]
fn the_clock_is_out_of_reach() {
    let messages = [text(Role::User, "x", true)];
    let guarded = "{% if strftime_now is defined %}{{ strftime_now('%Y') }}{% else %}2024{% endif %}";
    assert_eq!(render(guarded, &messages).unwrap(), "2024");
    let error = render("{{ strftime_now('%Y') }}", &messages).unwrap_err();
    let PromptError::TemplateRender { source } = error else { panic!("{error}") };
    assert!(source.to_string().contains("strftime_now"), "{source}");
}

#[test]
fn contents_are_parts_or_joined_strings() {
    let image = Content::Image(ImageSource::File("a.png".into()));
    let messages = [
        Message { role: Role::User, content: vec![image, Content::Text("What?".into())], plain: false },
        text(Role::Assistant, "A cat.", true),
    ];
    let (special, source) = (SpecialTokens::default, "{% for m in messages %}{{ m.content }};{% endfor %}");
    let joined = || ContentForm::Joined { separator: "\n".into(), image: "(i)".into() };
    let template = ChatTemplate::new(source, special(), joined()).unwrap();
    assert_eq!(template.render(&messages, true).unwrap(), "(i)\nWhat?;A cat.;");
    // A family's template always sees parts.
    let source =
        "{% for m in messages %}{% for p in m.content %}[{{ p.type }} {{ p.text }}]{% endfor %}{% endfor %}";
    let template = ChatTemplate::of_family(source, special(), ContentForm::Parts).unwrap();
    assert_eq!(template.render(&messages, true).unwrap(), "[image ][text What?][text A cat.]");
    let template = ChatTemplate::of_family(source, special(), joined()).unwrap();
    assert_eq!(template.render(&messages, true).unwrap(), "[text (i)\nWhat?][text A cat.]");
}

#[test]
fn only_a_familys_template_has_cuts_and_no_text_may_hold_one() {
    let source = "a{{ cut }}b{{ bos_token }}";
    let special = || SpecialTokens { bos: Some("<s>".into()), eos: None };
    let of_family = ChatTemplate::of_family(source, special(), ContentForm::Parts).unwrap();
    assert_eq!(of_family.render(&[], true).unwrap(), format!("a{CUT}b<s>"));
    assert_eq!(render(source, &[]).unwrap(), "ab<s>");
    let messages = [text(Role::User, "x\u{10FFFE}y", true)];
    assert!(matches!(of_family.render(&messages, true), Err(PromptError::Reserved)));
    assert_eq!(render(source, &messages).unwrap(), "ab<s>");
}

#[test]
fn bad_templates_and_refused_messages_are_errors() {
    assert!(matches!(render("{% for %}", &[]), Err(PromptError::TemplateSyntax { .. })));
    let error = render("{{ raise_exception('roles must alternate') }}", &[]).unwrap_err();
    let PromptError::TemplateRender { source } = error else { panic!("{error}") };
    assert!(source.to_string().contains("roles must alternate"), "{source}");
}

#[test]
fn the_template_is_found_in_a_string_or_a_named_list() {
    let list = json!([{ "name": "tool_use", "template": "t" }, { "name": "default", "template": "d" }]);
    assert_eq!(template_source(Some(&list)).unwrap().as_deref(), Some("d"));
    assert_eq!(
        template_source(Some(&json!([{ "name": "rag", "template": "r" }]))).unwrap().as_deref(),
        Some("r")
    );
    assert_eq!(template_source(Some(&json!("s"))).unwrap().as_deref(), Some("s"));
    assert_eq!(template_source(None).unwrap(), None);
    for wrong in
        [json!(3), json!([]), json!([{ "name": "a", "template": "x" }, { "name": "b", "template": "y" }])]
    {
        assert!(matches!(template_source(Some(&wrong)), Err(PromptError::TemplateShape { .. })), "{wrong}");
    }
}
