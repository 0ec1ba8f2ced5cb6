//! Any bytes as a GGUF file: the reader must refuse them or read every tensor inside the file, without a panic.
#![no_main]

use std::cell::RefCell;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};

use libfuzzer_sys::fuzz_target;
use mquant_export::export::gguf::GgufFile;
use tempfile::NamedTempFile;

thread_local! {
    /// One file for all inputs: making a new one each time takes longer than reading it.
    static PLACE: RefCell<NamedTempFile> = RefCell::new(NamedTempFile::new().expect("a temporary file"));
}

fn store(file: &mut File, bytes: &[u8]) -> std::io::Result<()> {
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    file.write_all(bytes)
}

fuzz_target!(|bytes: &[u8]| {
    PLACE.with_borrow_mut(|place| {
        store(place.as_file_mut(), bytes).expect("the temporary file is written");
        let Ok(file) = GgufFile::open(place.path()) else { return };
        for tensor in file.tensors() {
            assert!(tensor.offset + tensor.bytes <= bytes.len() as u64, "{tensor:?} ends behind the file");
            let matrix = file.matrix(&tensor.info.name).expect("a tensor inside the file is read");
            assert_eq!(matrix.bytes.len() as u64, tensor.bytes, "{tensor:?}");
            assert_eq!(matrix.dequantize().len(), matrix.rows * matrix.cols, "{tensor:?}");
        }
    });
});
