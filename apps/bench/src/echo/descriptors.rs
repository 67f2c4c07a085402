//! Descriptors of the echo service: two methods, both safe to repeat.

use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::method_options::IdempotencyLevel;
use prost_types::{
    DescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet, MethodDescriptorProto,
    MethodOptions, ServiceDescriptorProto,
};

/// The descriptors of `shoal.bench.Echo`.
pub(crate) fn set() -> FileDescriptorSet {
    let file = FileDescriptorProto {
        name: Some("shoal/bench/echo.proto".to_owned()),
        package: Some("shoal.bench".to_owned()),
        syntax: Some("proto3".to_owned()),
        message_type: vec![
            message("Text", [("text", Type::String), ("value", Type::Bytes)]),
            message("Series", [("messages", Type::Uint32), ("bytes", Type::Uint32)]),
        ],
        service: vec![ServiceDescriptorProto {
            name: Some("Echo".to_owned()),
            method: vec![method("Echo", "Text", false), method("Stream", "Series", true)],
            options: None,
        }],
        ..Default::default()
    };
    FileDescriptorSet { file: vec![file] }
}

fn message(name: &str, fields: [(&str, Type); 2]) -> DescriptorProto {
    let field = |(number, (name, of)): (i32, (&str, Type))| FieldDescriptorProto {
        name: Some(name.to_owned()),
        number: Some(number),
        label: Some(Label::Optional.into()),
        r#type: Some(of.into()),
        ..Default::default()
    };
    DescriptorProto {
        name: Some(name.to_owned()),
        field: (1..).zip(fields).map(field).collect(),
        ..Default::default()
    }
}

fn method(name: &str, input: &str, stream: bool) -> MethodDescriptorProto {
    let level = IdempotencyLevel::NoSideEffects;
    MethodDescriptorProto {
        name: Some(name.to_owned()),
        input_type: Some(format!(".shoal.bench.{input}")),
        output_type: Some(".shoal.bench.Text".to_owned()),
        options: Some(MethodOptions { idempotency_level: Some(level.into()), ..Default::default() }),
        client_streaming: Some(false),
        server_streaming: Some(stream),
    }
}
