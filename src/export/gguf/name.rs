//! Names of files by the GGUF naming convention (`docs/gguf.md` of ggml): `<BaseName>-<SizeLabel>-<FineTune>-<Version>-<Encoding>`, and
//! `mmproj-` in front of a projector file, without the size, as llama.cpp's converter writes them.

/// What the name of a file is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileName<'a> {
    /// Name of the model without what follows.
    pub base: &'a str,
    /// Size of the text model, see [`size_label`].
    pub size: Option<&'a str>,
    /// What it was tuned for, such as `Instruct`.
    pub finetune: Option<&'a str>,
    /// Such as `v1.0`.
    pub version: Option<&'a str>,
    /// Encoding of most weights, such as `Q4_K_M`, in any case.
    pub encoding: &'a str,
}

impl FileName<'_> {
    /// Name of the text model's file without `.gguf`.
    pub fn file_stem(&self) -> String {
        let encoding = self.encoding.to_uppercase();
        let parts = [Some(self.base), self.size, self.finetune, self.version, Some(&encoding)];
        let parts = parts.into_iter().flatten().map(part).filter(|p| !p.is_empty());
        parts.collect::<Vec<_>>().join("-")
    }

    /// Name of the projector's file without `.gguf`.
    pub fn projector_stem(&self) -> String {
        format!("mmproj-{}", Self { size: None, ..*self }.file_stem())
    }
}

/// A part that can stand in a file's name: no space, and nothing that leads into another folder.
fn part(text: &str) -> String {
    let fine = |c: char| !(c.is_whitespace() || c.is_control() || "/\\:*?\"<>|".contains(c));
    text.trim().chars().map(|c| if fine(c) { c } else { '-' }).collect()
}

/// The number of parameters as names have it, such as `2.2B` or `72B`: two digits or more (`size_label` of `gguf-py/gguf/utility.py`).
pub fn size_label(parameters: u64) -> String {
    let exact = parameters as f64;
    let (scale, suffix) = match exact {
        n if n > 1e12 => (1e-12, 'T'),
        n if n > 1e9 => (1e-9, 'B'),
        n if n > 1e6 => (1e-6, 'M'),
        _ => (1e-3, 'K'),
    };
    let scaled = exact * scale;
    let digits = match scaled.round_ties_even() {
        0.0 => 0,
        n if n < 10.0 => 1,
        _ => 2,
    };
    format!("{scaled:.*}{suffix}", 2 - digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_two_digits() {
        let found: Vec<String> =
            [0, 187, 12_345, 1_000_000, 1_500_000, 2_208_985_600, 72_706_203_648, 1_000_000_000_001]
                .map(size_label)
                .to_vec();
        assert_eq!(found, ["0.00K", "0.19K", "12K", "1000K", "1.5M", "2.2B", "73B", "1.0T"]);
    }

    #[test]
    fn names_follow_the_convention() {
        let name = FileName {
            base: "Qwen2 VL/x",
            size: Some("2B"),
            finetune: Some("Instruct"),
            version: Some("v1.0"),
            encoding: "q4_k_m",
        };
        assert_eq!(name.file_stem(), "Qwen2-VL-x-2B-Instruct-v1.0-Q4_K_M");
        assert_eq!(name.projector_stem(), "mmproj-Qwen2-VL-x-Instruct-v1.0-Q4_K_M");
        let least = FileName { base: " .. ", encoding: "F16", ..FileName::default() };
        assert_eq!(least.file_stem(), "..-F16");
    }
}
