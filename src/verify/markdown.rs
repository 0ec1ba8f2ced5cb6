//! A report as Markdown.
