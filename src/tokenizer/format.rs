//! How a checkpoint's tokenizer files are to be read: a section of a family file. Reading them is in the other files.

use schemars::JsonSchema;
use serde::Deserialize;

/// Stands for the running number in the text of a [`RepeatedToken`].
const NUMBER: &str = "{i}";

/// How a checkpoint's tokenizer files are to be read.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum TokenizerFormat {
    /// `tokenizer.json`, or `vocab.json`, `merges.txt` and `tokenizer_config.json` where there is none.
    #[serde(rename = "huggingface")]
    HuggingFace {},
    /// A tiktoken rank file: lines of a token in base64 and its rank. A `tokenizer.json` beside it is not read.
    Tiktoken {
        /// Name of the rank file.
        file: String,
        /// The regular expression that cuts text into pieces before byte-pair encoding.
        pattern: String,
        /// Texts are brought to Unicode's composed form (NFC) first.
        #[serde(default)]
        normalize_nfc: bool,
        /// Special tokens that the reference numbers in its code, from the end of the ranks upwards, in this order.
        /// Those of `tokenizer_config.json` come with their ids and are not repeated here.
        #[serde(default)]
        special: Vec<SpecialToken>,
    },
    /// A SentencePiece model (protobuf): byte-pair encoding, identity normalization. A `tokenizer.json` beside it is
    /// not read.
    Sentencepiece {
        /// Name of the model file.
        file: String,
    },
}

/// One special token, or a run of numbered ones.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum SpecialToken {
    /// The text of a token.
    Text(String),
    /// Several tokens.
    Repeated(RepeatedToken),
}

/// Tokens that differ in a number.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RepeatedToken {
    /// Text; `{i}` stands for the number, from 0.
    pub text: String,
    /// How many there are.
    pub repeat: u32,
}

impl SpecialToken {
    /// The texts of these tokens, in order.
    pub fn texts(&self) -> Vec<String> {
        match self {
            Self::Text(text) => vec![text.clone()],
            Self::Repeated(RepeatedToken { text, repeat }) => {
                (0..*repeat).map(|i| text.replace(NUMBER, &i.to_string())).collect()
            }
        }
    }
}
