//! Name patterns, as users write them for roles and family files for tensors.

/// Whether `name` is `pattern` with every `*` standing for any run of characters.
pub fn glob(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((head, rest)) => name.strip_prefix(head).is_some_and(|tail| {
            let ends = tail.char_indices().map(|(i, _)| i).chain([tail.len()]);
            ends.into_iter().any(|i| glob(rest, &tail[i..]))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::glob;

    #[test]
    fn globs() {
        assert!(glob("a.*.c", "a.b.c") && glob("a.*.c", "a.b.b.c") && glob("*", "") && glob("a*", "a"));
        assert!(!glob("a.*.c", "a.b.d") && !glob("a", "ab") && !glob("*b", "a"));
        assert!(glob("*.q.*", "decoder.layers.0.attn.q.weight"));
    }
}
