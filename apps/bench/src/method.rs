//! Methods of any gRPC service as a workload: from flags, by the server's own description of its types.

mod descriptors;
mod flags;
mod placeholder;
mod similar;
mod target_args;
mod template;

pub(crate) use flags::CallArgs;
pub(crate) use target_args::TargetArgs;

use std::net::SocketAddr;

use anyhow::{Context as _, bail, ensure};
use http::HeaderMap;

use self::descriptors::Descriptors;
use crate::load::call::{connect, with_metadata};
use crate::load::measured::code_name;
use crate::load::target::{Method, Target, Workload};

impl CallArgs {
    /// Returns the workload that the flags describe; `address` is that of a server that offers the methods.
    ///
    /// # Errors
    /// When a method, a field or a placeholder does not exist; the error says what there is.
    pub(crate) async fn workload(&self, address: &str, seed: u64) -> anyhow::Result<Workload> {
        let descriptors = match &self.protoset {
            Some(file) => Descriptors::read(file)?,
            None => Descriptors::of_server(address).await?,
        };
        let metadata: HeaderMap = self.metadata.iter().cloned().collect();
        let mut methods = Vec::new();
        for flag in &self.methods {
            let descriptor = descriptors.method(&flag.name).await?;
            let content = template::compile(&flag.data, &descriptor.input(), seed)
                .with_context(|| format!("the data of {}", flag.name))?;
            let path = format!("/{}/{}", descriptor.parent_service().full_name(), descriptor.name());
            methods.push(Method { path, weight: flag.weight, metadata: metadata.clone(), content });
        }
        Ok(Workload::new(methods))
    }
}

/// Calls each method once at each address, so that a load does not begin with calls that cannot succeed.
///
/// # Errors
/// When a call is answered with a status that the target does not accept.
pub(crate) async fn try_once(target: &Target, seed: u64) -> anyhow::Result<()> {
    let methods = target.workload.methods();
    for address in &target.addresses {
        let mut sender = connect(*address).await?;
        let uris = target.workload.uris(*address)?;
        for (n, (method, uri)) in methods.iter().zip(&uris).enumerate() {
            let framed = target.workload.request_of(n, seed);
            let answer = with_metadata(&mut sender, uri, &method.metadata, framed, None)
                .await
                .with_context(|| format!("a first call of {} at {address}", method.path))?;
            let code = answer.status.unwrap_or(2);
            if !target.accepts(Some(code)) {
                let name = code_name(code);
                bail!(
                    "a first call of {} at {address} was answered {name}: {}. If that is what the calls should be \
                     answered, accept it with --accept {name}",
                    method.path.trim_start_matches('/'),
                    match &answer.message[..] {
                        "" => "without a message",
                        message => message,
                    }
                );
            }
        }
    }
    Ok(())
}

/// Returns the addresses of servers given as `host:port`.
///
/// # Errors
/// When one is not of that form, or its host is not known.
pub(crate) async fn addresses(targets: &[String]) -> anyhow::Result<Vec<SocketAddr>> {
    let mut addresses = Vec::new();
    for target in targets {
        ensure!(
            !target.starts_with("https://"),
            "{target}: TLS is not spoken; measure a plain-text port, or one behind a proxy that ends TLS"
        );
        let bare = target.trim_start_matches("http://").trim_end_matches('/');
        let found = tokio::net::lookup_host(bare)
            .await
            .with_context(|| format!("`{target}` is not an address: write host:port"))?
            .next();
        addresses.push(found.with_context(|| format!("{target}: the host has no address"))?);
    }
    Ok(addresses)
}
