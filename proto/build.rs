//! Compiles `shoal/**/*.proto` without `protoc` and writes the bindings and one descriptor set (with comments).

use std::path::{Path, PathBuf};

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?);
    let mut files = Vec::new();
    collect(&root.join("shoal"), &mut files)?;
    files.sort();
    println!("cargo:rerun-if-changed={}", root.join("shoal").display());

    let mut compiler = protox::Compiler::new([&root])?;
    compiler.include_source_info(true).include_imports(true).open_files(&files)?;
    let set = compiler.file_descriptor_set();
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("shoal.bin"), set.encode_to_vec())?;

    // Maps of sessions are in order here as they are in the service: nothing is hashed on the way out.
    tonic_prost_build::configure()
        .bytes(".")
        .btree_map(".shoal.session.v1")
        .codec_path("crate::codec::Codec")
        .compile_fds(set)?;
    Ok(())
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|e| e == "proto") {
            files.push(path);
        }
    }
    Ok(())
}
