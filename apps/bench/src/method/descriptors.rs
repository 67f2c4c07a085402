//! Types of a server's methods: by its reflection service, v1 or else v1alpha, or from a file of descriptors.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use prost::Message as _;
use prost_reflect::{DescriptorPool, MethodDescriptor, ServiceDescriptor};
use prost_types::FileDescriptorProto;
use tokio::time::timeout;
use tonic::Code;
use tonic::client::Grpc;
use tonic::transport::Channel;
use tonic_prost::ProstCodec;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};

use super::similar::suggestion;

/// Time that a server may take to describe a service.
const DESCRIBED_WITHIN: Duration = Duration::from_secs(20);

/// Files that a service may consist of.
const FILES_MAX: usize = 1_000;

/// Bytes of a file of descriptors, and of an answer of the reflection service.
const BYTES_MAX: usize = 64 << 20;

const HOW_TO_DO_WITHOUT: &str = "give its types with --protoset FILE (made by `protoc --descriptor_set_out=FILE --include_imports X.proto` or \
     `buf build -o FILE`)";

/// Source of descriptors.
#[derive(Debug)]
pub(super) enum Descriptors {
    File(DescriptorPool),
    Server { channel: Channel, version: Version, address: String },
}

/// Version of the reflection service; their messages are the same.
#[derive(Debug, Clone, Copy)]
pub(super) enum Version {
    V1,
    V1Alpha,
}

impl Version {
    fn path(self) -> &'static str {
        match self {
            Version::V1 => "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            Version::V1Alpha => "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        }
    }
}

impl Descriptors {
    /// Reads a FileDescriptorSet.
    ///
    /// # Errors
    /// When the file cannot be read or lacks one of its imports.
    pub(super) fn read(file: &Path) -> anyhow::Result<Descriptors> {
        let named = || format!("--protoset {}", file.display());
        let length = std::fs::metadata(file).with_context(named)?.len();
        ensure!(length <= BYTES_MAX as u64, "{}: more than {} MiB", named(), BYTES_MAX >> 20);
        let bytes = std::fs::read(file).with_context(named)?;
        let pool = DescriptorPool::decode(&bytes[..])
            .with_context(|| format!("{}: not a FileDescriptorSet with all its imports", named()))?;
        Ok(Descriptors::File(pool))
    }

    /// Connects to a server's reflection service.
    ///
    /// # Errors
    /// When the server has none.
    pub(super) async fn of_server(address: &str) -> anyhow::Result<Descriptors> {
        let channel = Channel::from_shared(format!("http://{address}"))?
            .connect_timeout(DESCRIBED_WITHIN)
            .connect()
            .await
            .with_context(|| format!("connecting to {address} by HTTP/2 without TLS"))?;
        for version in [Version::V1, Version::V1Alpha] {
            match ask(&channel, version, vec![MessageRequest::ListServices(String::new())]).await {
                Ok(_) => return Ok(Descriptors::Server { channel, version, address: address.to_owned() }),
                Err(status) if status.code() == Code::Unimplemented => {}
                Err(status) => {
                    bail!("reflection of {address} failed: {}; {HOW_TO_DO_WITHOUT}", said(&status));
                }
            }
        }
        bail!("{address} offers no reflection; {HOW_TO_DO_WITHOUT}")
    }

    /// Returns the method `package.Service/Method`; a dot in place of the slash and a slash before it are fine too.
    ///
    /// # Errors
    /// When there is none, naming close ones, or when the caller streams.
    pub(super) async fn method(&self, name: &str) -> anyhow::Result<MethodDescriptor> {
        let bare = name.trim_start_matches('/');
        let Some((service, method)) = bare.split_once('/').or_else(|| bare.rsplit_once('.')) else {
            bail!("`{name}` is not a method: write package.Service/Method");
        };
        let found = self.service(service).await?;
        let Some(descriptor) = found.methods().find(|descriptor| descriptor.name() == method) else {
            let names: Vec<String> = found.methods().map(|method| method.name().to_owned()).collect();
            bail!("{service} has no method `{method}`: {}", suggestion(method, &names));
        };
        ensure!(
            !descriptor.is_client_streaming(),
            "{name} takes a stream of requests: only unary methods and those that answer a stream can be measured"
        );
        Ok(descriptor)
    }

    async fn service(&self, name: &str) -> anyhow::Result<ServiceDescriptor> {
        let (pool, names, place) = match self {
            Descriptors::File(pool) => {
                let names = pool.services().map(|service| service.full_name().to_owned()).collect();
                (pool.clone(), names, "the protoset".to_owned())
            }
            Descriptors::Server { channel, version, address } => {
                let names = services(channel, *version).await?;
                let pool = match names.iter().any(|service| service == name) {
                    true => described(channel, *version, name).await?,
                    false => DescriptorPool::new(),
                };
                (pool, names, address.clone())
            }
        };
        pool.get_service_by_name(name)
            .with_context(|| format!("{place} has no service `{name}`: {}", suggestion(name, &names)))
    }
}

async fn services(channel: &Channel, version: Version) -> anyhow::Result<Vec<String>> {
    let answers = ask(channel, version, vec![MessageRequest::ListServices(String::new())]).await;
    let answers = answers.map_err(|status| anyhow::anyhow!("listing services: {}", said(&status)))?;
    let mut names = Vec::new();
    for answer in answers {
        if let MessageResponse::ListServicesResponse(list) = answer {
            names.extend(list.service.into_iter().map(|service| service.name));
        }
    }
    Ok(names)
}

/// Fetches the file of a service with all that it imports.
async fn described(channel: &Channel, version: Version, service: &str) -> anyhow::Result<DescriptorPool> {
    let mut files: BTreeMap<String, FileDescriptorProto> = BTreeMap::new();
    let mut asked = BTreeSet::new();
    let mut wanted = vec![MessageRequest::FileContainingSymbol(service.to_owned())];
    while !wanted.is_empty() {
        let answers = ask(channel, version, std::mem::take(&mut wanted))
            .await
            .map_err(|status| anyhow::anyhow!("describing {service}: {}", said(&status)))?;
        for answer in answers {
            match answer {
                MessageResponse::FileDescriptorResponse(response) => {
                    for bytes in response.file_descriptor_proto {
                        let file = FileDescriptorProto::decode(&bytes[..])
                            .with_context(|| format!("describing {service}: a descriptor is malformed"))?;
                        files.insert(file.name().to_owned(), file);
                    }
                }
                // A file that the server does not have may be one that everybody has.
                MessageResponse::ErrorResponse(error) if files.is_empty() => {
                    bail!("describing {service}: {}", error.error_message);
                }
                _ => {}
            }
        }
        ensure!(files.len() <= FILES_MAX, "{service} consists of more than {FILES_MAX} files");
        let imported: BTreeSet<String> =
            files.values().flat_map(|file| file.dependency.iter().cloned()).collect();
        for name in imported {
            if !files.contains_key(&name) && asked.insert(name.clone()) {
                wanted.push(MessageRequest::FileByFilename(name));
            }
        }
    }
    for file in DescriptorPool::global().file_descriptor_protos() {
        files.entry(file.name().to_owned()).or_insert_with(|| file.clone());
    }
    let mut pool = DescriptorPool::new();
    pool.add_file_descriptor_protos(files.into_values())
        .with_context(|| format!("the descriptors of {service} do not fit together; {HOW_TO_DO_WITHOUT}"))?;
    Ok(pool)
}

/// Asks the reflection service, and returns its answers in their order.
async fn ask(
    channel: &Channel,
    version: Version,
    questions: Vec<MessageRequest>,
) -> Result<Vec<MessageResponse>, tonic::Status> {
    let questions = questions
        .into_iter()
        .map(|question| ServerReflectionRequest { host: String::new(), message_request: Some(question) });
    let exchange = async {
        let mut client = Grpc::new(channel.clone()).max_decoding_message_size(BYTES_MAX);
        client.ready().await.map_err(|error| tonic::Status::unavailable(error.to_string()))?;
        let path = http::uri::PathAndQuery::from_static(version.path());
        let codec = ProstCodec::<ServerReflectionRequest, ServerReflectionResponse>::default();
        let questions = tonic::Request::new(tokio_stream::iter(questions.collect::<Vec<_>>()));
        let mut stream = client.streaming(questions, path, codec).await?.into_inner();
        let mut answers = Vec::new();
        while let Some(answer) = stream.message().await? {
            answers.extend(answer.message_response);
        }
        Ok(answers)
    };
    timeout(DESCRIBED_WITHIN, exchange).await.unwrap_or_else(|_| {
        Err(tonic::Status::deadline_exceeded(format!("no answer in {DESCRIBED_WITHIN:?}")))
    })
}

fn said(status: &tonic::Status) -> String {
    match status.message() {
        "" => status.code().description().to_owned(),
        message => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use tonic_reflection::server::Builder;

    /// Serves the reflection of Shoal's own protos, in one version of the service.
    async fn server(version: Option<Version>) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("bound").to_string();
        let builder = Builder::configure().register_encoded_file_descriptor_set(shoal_proto::DESCRIPTOR_SET);
        let mut routes = tonic::service::Routes::builder();
        match version {
            Some(Version::V1) => routes.add_service(builder.build_v1().expect("v1")),
            Some(Version::V1Alpha) => routes.add_service(builder.build_v1alpha().expect("v1alpha")),
            None => &mut routes,
        };
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        let router = tonic::transport::Server::builder().add_routes(routes.routes());
        tokio::spawn(router.serve_with_incoming(incoming));
        address
    }

    async fn error(descriptors: &Descriptors, method: &str) -> String {
        format!("{:#}", descriptors.method(method).await.expect_err("wrong"))
    }

    #[tokio::test]
    async fn both_versions_of_reflection_are_asked() {
        for version in [Version::V1, Version::V1Alpha] {
            let descriptors = Descriptors::of_server(&server(Some(version)).await).await.expect("reflects");
            for name in ["shoal.cache.v1.CacheService/Get", "/shoal.cache.v1.CacheService.Get"] {
                let method = descriptors.method(name).await.expect("described");
                assert_eq!(method.input().full_name(), "shoal.cache.v1.GetRequest");
            }
        }
    }

    #[tokio::test]
    async fn missing_names_suggest_close_ones() {
        let descriptors = Descriptors::of_server(&server(Some(Version::V1)).await).await.expect("reflects");
        let method = error(&descriptors, "shoal.cache.v1.CacheService/Gett").await;
        assert!(method.contains("has no method `Gett`: did you mean `Get`"), "{method}");
        let service = error(&descriptors, "CacheService/Get").await;
        assert!(service.contains("did you mean `shoal.cache.v1.CacheService`?"), "{service}");
        assert!(error(&descriptors, "Get").await.contains("write package.Service/Method"));
    }

    #[tokio::test]
    async fn protoset_stands_in_for_reflection() {
        let without = Descriptors::of_server(&server(None).await).await.expect_err("no reflection");
        assert!(format!("{without:#}").contains("offers no reflection; give its types with --protoset FILE"));
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), shoal_proto::DESCRIPTOR_SET).expect("written");
        let descriptors = Descriptors::read(file.path()).expect("descriptors");
        descriptors.method("shoal.cache.v1.CacheService/Get").await.expect("described");
        let elsewhere = error(&descriptors, "a.B/C").await;
        assert!(elsewhere.contains("the protoset has no service `a.B`"), "{elsewhere}");
    }

    #[tokio::test]
    async fn methods_that_take_streams_are_refused() {
        let file = tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET;
        let descriptors = Descriptors::File(DescriptorPool::decode(file).expect("descriptors"));
        let stream = error(&descriptors, "grpc.reflection.v1.ServerReflection/ServerReflectionInfo").await;
        assert!(stream.contains("only unary methods and those that answer a stream"), "{stream}");
    }
}
