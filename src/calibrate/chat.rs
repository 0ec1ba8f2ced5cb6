//! Chat templates: the Jinja program a checkpoint ships, run as transformers runs it
//! (`utils/chat_template_utils.py`: blocks trimmed, Python string methods, `raise_exception`, `tojson`), or one that a
//! family file gives for checkpoints whose own code writes prompts.
//!
//! What differs: `strftime_now` is not defined, since its output depends on the day; templates that ask `is defined`
//! take their fixed date, others fail with an error that names it. `{% generation %}` blocks are not known. Which
//! file the template comes from is the caller's business; tokenizing is in `crate::tokenizer`.

mod pyjson;

use minijinja::value::Kwargs;
use minijinja::{Environment, ErrorKind, Value};
use serde_json::json;

use crate::family::inputs::ContentForm;

use super::dataset::{Content, Message};
use super::prompt::PromptError;

/// Name of the only template in the environment. No file ending, so nothing is escaped.
pub(super) const NAME: &str = "chat_template";

/// What the variable `cut` of a family file's template prints. The last code point but one is no character (Unicode
/// chapter 23.7), so no text holds it by right.
pub const CUT: &str = "\u{10FFFE}";

/// A compiled chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    special: SpecialTokens,
    content: ContentForm,
    /// Where the template comes from: it may print `cut`, and never sees a content as a plain string.
    from_family: bool,
}

/// Special tokens that templates print by name.
#[derive(Clone, Debug, Default)]
pub struct SpecialTokens {
    /// `bos_token` of `tokenizer_config.json`; undefined in the template when `None`.
    pub bos: Option<String>,
    /// `eos_token` of `tokenizer_config.json`; undefined in the template when `None`.
    pub eos: Option<String>,
}

impl ChatTemplate {
    /// Compiles the template `source` of a checkpoint. It sees messages in `content`.
    ///
    /// # Errors
    /// [`PromptError::TemplateSyntax`].
    pub fn new(source: &str, special: SpecialTokens, content: ContentForm) -> Result<Self, PromptError> {
        Ok(Self { environment: environment(source)?, special, content, from_family: false })
    }

    /// Compiles the template `source` of a family file. It sees every content as a list of parts (a joined one as one
    /// text part) and may print the variable `cut`.
    ///
    /// # Errors
    /// [`PromptError::TemplateSyntax`].
    pub fn of_family(
        source: &str,
        special: SpecialTokens,
        content: ContentForm,
    ) -> Result<Self, PromptError> {
        Ok(Self { environment: environment(source)?, special, content, from_family: true })
    }

    /// The text of a conversation; with `add_generation_prompt` it ends where the model is to write. Where a family's
    /// template prints `cut`, [`CUT`] stands.
    ///
    /// # Errors
    /// [`PromptError::TemplateRender`]: the template refused the messages (`raise_exception`) or cannot be run.
    /// [`PromptError::Reserved`]: a message holds [`CUT`].
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, PromptError> {
        let failed = |e| PromptError::TemplateRender { source: Box::new(e) };
        let holds_cut = |c: &Content| matches!(c, Content::Text(text) if text.contains(CUT));
        if self.from_family && messages.iter().flat_map(|m| &m.content).any(holds_cut) {
            return Err(PromptError::Reserved);
        }
        let template = self.environment.get_template(NAME).map_err(failed)?;
        let mut context = json!({
            "messages": messages.iter().map(|m| self.message(m)).collect::<Vec<_>>(),
            "add_generation_prompt": add_generation_prompt,
        });
        for (name, token) in [("bos_token", &self.special.bos), ("eos_token", &self.special.eos)] {
            if let Some(token) = token {
                context[name] = json!(token);
            }
        }
        if self.from_family {
            context["cut"] = json!(CUT);
        }
        template.render(context).map_err(failed)
    }

    /// A message as the template sees it.
    fn message(&self, message: &Message) -> serde_json::Value {
        let text = |text: &str| json!({ "type": "text", "text": text });
        let content = match (&self.content, message.content.as_slice()) {
            (ContentForm::Joined { separator, image }, pieces) => {
                let pieces: Vec<&str> = pieces.iter().map(|p| piece_text(p, image)).collect();
                let joined = pieces.join(separator);
                if self.from_family { json!([text(&joined)]) } else { json!(joined) }
            }
            // transformers passes a message on in the form in which the data set gives it.
            (ContentForm::Parts, [Content::Text(text)]) if message.plain && !self.from_family => json!(text),
            (ContentForm::Parts, pieces) => pieces.iter().map(piece).collect(),
        };
        json!({ "role": message.role.name(), "content": content })
    }
}

/// An environment with `source` as its only template, and what transformers gives templates.
pub(super) fn environment(source: &str) -> Result<Environment<'static>, PromptError> {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function("raise_exception", |message: String| -> Result<Value, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_filter("tojson", to_json);
    environment
        .add_template_owned(NAME, source.to_owned())
        .map_err(|e| PromptError::TemplateSyntax { source: Box::new(e) })?;
    Ok(environment)
}

/// The template in the `chat_template` value of `chat_template.json` or `tokenizer_config.json`: a string, or a list
/// of `{"name", "template"}` of which the one named `default` counts (the only one, if there is just one). `None`
/// when the value is absent.
///
/// # Errors
/// [`PromptError::TemplateShape`] when it is something else.
pub fn template_source(value: Option<&serde_json::Value>) -> Result<Option<String>, PromptError> {
    let wrong = || PromptError::TemplateShape { found: value.map(ToString::to_string).unwrap_or_default() };
    match value {
        None | Some(serde_json::Value::Null) => Ok(None),
        Some(serde_json::Value::String(text)) => Ok(Some(text.clone())),
        Some(serde_json::Value::Array(list)) => {
            let named = list.iter().find(|item| item["name"] == "default");
            let only = if let [item] = list.as_slice() { Some(item) } else { None };
            let text = named.or(only).and_then(|item| item["template"].as_str());
            Ok(Some(text.ok_or_else(wrong)?.to_owned()))
        }
        Some(_) => Err(wrong()),
    }
}

/// An image shows as a constant in the place of its path: a path would bind the prompt to the machine.
fn piece(content: &Content) -> serde_json::Value {
    match content {
        Content::Text(text) => json!({ "type": "text", "text": text }),
        Content::Image(_) => json!({ "type": "image", "image": "image" }),
    }
}

/// A piece inside a joined content; `image` stands for an image.
fn piece_text<'a>(content: &'a Content, image: &'a str) -> &'a str {
    match content {
        Content::Text(text) => text,
        Content::Image(_) => image,
    }
}

/// transformers' `tojson`: Python's `json.dumps(x, ensure_ascii=False, indent=indent)`. Other arguments are errors.
fn to_json(value: Value, arguments: Kwargs) -> Result<String, minijinja::Error> {
    let indent: Option<usize> = arguments.get("indent")?;
    arguments.assert_all_used()?;
    pyjson::dumps(&value, indent).map_err(|e| {
        minijinja::Error::new(ErrorKind::BadSerialization, "value cannot be written as JSON").with_source(e)
    })
}

#[cfg(test)]
mod tests;
