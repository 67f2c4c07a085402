//! Compiles `shoal/**/*.proto` without `protoc` and writes the bindings, one descriptor set (with comments), and which fields
//! of each message are lists and messages.

use std::path::{Path, PathBuf};

use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FileDescriptorSet};

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

    std::fs::write(out.join("shapes.rs"), shapes(&set))?;

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

/// A static of each message of ours, named after it, and what connects requests and answers with theirs.
fn shapes(set: &FileDescriptorSet) -> String {
    let mut code = String::new();
    for file in set.file.iter().filter(|file| file.package().starts_with("shoal.")) {
        let package = file.package();
        for message in &file.message_type {
            shape(&format!(".{package}.{}", message.name()), message, &mut code);
            let module = package.trim_start_matches("shoal.").replace("type.", "r#type.").replace('.', "::");
            let shape = match message.name() {
                name if name.ends_with("Request") => {
                    format!("Some(&{})", constant(&format!(".{package}.{name}")))
                }
                name if name.ends_with("Response") => "None".to_owned(),
                _ => continue,
            };
            code += &format!(
                "impl elements::Shaped for {module}::{} {{ const SHAPE: Option<&'static elements::Shape> = {shape}; }}\n",
                message.name()
            );
        }
    }
    code
}

fn shape(name: &str, message: &DescriptorProto, code: &mut String) {
    for nested in &message.nested_type {
        shape(&format!("{name}.{}", nested.name()), nested, code);
    }
    let lists = message.field.iter().filter(|field| field.label() == Label::Repeated);
    let lists: Vec<_> = lists.map(|field| field.number().to_string()).collect();
    // Messages that are not ours have no lists.
    let ours = |name: &str| name.starts_with(".shoal.");
    let messages =
        message.field.iter().filter(|field| field.r#type() == Type::Message && ours(field.type_name()));
    let messages: Vec<_> =
        messages.map(|field| format!("({}, &{})", field.number(), constant(field.type_name()))).collect();
    *code += &format!(
        "static {}: elements::Shape = elements::Shape {{ lists: &[{}], messages: &[{}] }};\n",
        constant(name),
        lists.join(", "),
        messages.join(", ")
    );
}

fn constant(name: &str) -> String {
    name.trim_start_matches('.').replace('.', "_").to_uppercase()
}
