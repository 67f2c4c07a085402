//! Descriptors of the services behind the gateway: files of descriptors by owner, and lookups over all owners.
//!
//! Two upstreams may bring different files of the same name (`common.proto`). They are never mixed: a symbol is resolved
//! in the files of the upstream that owns it, and a file name in the files of the upstream the caller asked about last.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use prost_types::method_options::IdempotencyLevel;
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto};

/// A set of files as `protoc` writes it, each left as the bytes it came in: decoding one into types that do not know its
/// options would lose them.
#[derive(Clone, PartialEq, prost::Message)]
struct RawSet {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    file: Vec<Bytes>,
}

/// A `.proto` file.
#[derive(Debug)]
pub(crate) struct File {
    pub(crate) name: String,
    /// The `FileDescriptorProto` as its owner sent it.
    pub(crate) bytes: Bytes,
    pub(crate) dependencies: Vec<String>,
    pub(crate) services: Vec<Service>,
    symbols: Vec<String>,
    /// Extended message and field number.
    extensions: Vec<(String, i32)>,
}

/// A service of a file.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    pub(crate) name: String,
    pub(crate) methods: Vec<Method>,
}

/// A method of a service.
#[derive(Debug, Clone)]
pub(crate) struct Method {
    pub(crate) name: String,
    /// Marked NO_SIDE_EFFECTS or IDEMPOTENT: safe to repeat.
    pub(crate) idempotent: bool,
    /// Has a stream of messages, in either direction.
    pub(crate) streaming: bool,
}

impl File {
    /// Reads one `FileDescriptorProto`.
    pub(crate) fn read(bytes: Bytes) -> Result<File, prost::DecodeError> {
        let proto = FileDescriptorProto::decode(bytes.clone())?;
        let mut file = File {
            name: proto.name().to_owned(),
            bytes,
            dependencies: proto.dependency.clone(),
            services: Vec::new(),
            symbols: Vec::new(),
            extensions: Vec::new(),
        };
        let package = proto.package();
        for message in &proto.message_type {
            file.message(package, message);
        }
        for kind in &proto.enum_type {
            file.enumeration(package, kind);
        }
        file.extended(package, &proto.extension);
        for service in &proto.service {
            let name = join(package, service.name());
            file.symbols.push(name.clone());
            let methods = service.method.iter().map(|method| {
                file.symbols.push(join(&name, method.name()));
                let level = method
                    .options
                    .as_ref()
                    .map_or(IdempotencyLevel::IdempotencyUnknown, |options| options.idempotency_level());
                Method {
                    name: method.name().to_owned(),
                    idempotent: level != IdempotencyLevel::IdempotencyUnknown,
                    streaming: method.client_streaming() || method.server_streaming(),
                }
            });
            let methods = methods.collect();
            file.services.push(Service { name, methods });
        }
        Ok(file)
    }

    fn message(&mut self, scope: &str, message: &DescriptorProto) {
        let name = join(scope, message.name());
        self.symbols.extend(message.field.iter().map(|field| join(&name, field.name())));
        self.symbols.extend(message.oneof_decl.iter().map(|oneof| join(&name, oneof.name())));
        self.extended(&name, &message.extension);
        for nested in &message.nested_type {
            self.message(&name, nested);
        }
        for kind in &message.enum_type {
            self.enumeration(&name, kind);
        }
        self.symbols.push(name);
    }

    fn enumeration(&mut self, scope: &str, kind: &EnumDescriptorProto) {
        self.symbols.push(join(scope, kind.name()));
        // Values are siblings of their type, as in C++.
        self.symbols.extend(kind.value.iter().map(|value| join(scope, value.name())));
    }

    fn extended(&mut self, scope: &str, fields: &[FieldDescriptorProto]) {
        for field in fields {
            self.symbols.push(join(scope, field.name()));
            self.extensions.push((field.extendee().trim_start_matches('.').to_owned(), field.number()));
        }
    }
}

fn join(scope: &str, name: &str) -> String {
    if scope.is_empty() { name.to_owned() } else { format!("{scope}.{name}") }
}

/// The files of one owner.
#[derive(Debug, Default)]
pub(crate) struct Files {
    by_name: BTreeMap<String, Arc<File>>,
    by_symbol: HashMap<String, Arc<File>>,
    by_extension: HashMap<(String, i32), Arc<File>>,
}

impl Files {
    /// Reads encoded `FileDescriptorSet`s.
    pub(crate) fn of_sets(sets: &[&'static [u8]]) -> Result<Files, prost::DecodeError> {
        let mut files = Files::default();
        for set in sets {
            for bytes in RawSet::decode(Bytes::from_static(set))?.file {
                files.add(File::read(bytes)?);
            }
        }
        Ok(files)
    }

    /// Adds a file, unless one of its name is there.
    pub(crate) fn add(&mut self, file: File) {
        if self.by_name.contains_key(&file.name) {
            return;
        }
        let file = Arc::new(file);
        for symbol in &file.symbols {
            self.by_symbol.entry(symbol.clone()).or_insert_with(|| file.clone());
        }
        for extension in &file.extensions {
            self.by_extension.entry(extension.clone()).or_insert_with(|| file.clone());
        }
        self.by_name.insert(file.name.clone(), file);
    }

    /// Every service, by file.
    pub(crate) fn services(&self) -> impl Iterator<Item = &Service> {
        self.by_name.values().flat_map(|file| &file.services)
    }

    /// Imports that are not here.
    pub(crate) fn missing(&self) -> HashSet<String> {
        let imports = self.by_name.values().flat_map(|file| &file.dependencies);
        imports.filter(|name| !self.by_name.contains_key(*name)).cloned().collect()
    }

    /// Returns how many there are.
    pub(crate) fn len(&self) -> usize {
        self.by_name.len()
    }
}

/// Files of all owners, and which services are shown.
#[derive(Debug, Default)]
pub(crate) struct Descriptors {
    owners: Vec<Arc<Files>>,
    /// Shown services and the index of their owner, if any describes them.
    services: BTreeMap<String, Option<usize>>,
}

/// A file and whose it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found<'a> {
    pub(crate) owner: usize,
    pub(crate) file: &'a Arc<File>,
}

impl Descriptors {
    /// Adds an owner with the services it is routed. A service that is there already stays with its first owner.
    pub(crate) fn add(&mut self, files: Arc<Files>, services: impl IntoIterator<Item = String>) {
        let owner = self.owners.len();
        for service in services {
            let described = files.by_symbol.contains_key(&service).then_some(owner);
            self.services.entry(service).or_insert(described);
        }
        self.owners.push(files);
    }

    /// Every service, described or not, in order.
    pub(crate) fn services(&self) -> impl Iterator<Item = &str> {
        self.services.keys().map(String::as_str)
    }

    /// The file that defines `symbol`: that of the service's owner, or of the owner of the service a method is of; for
    /// anything else the `last` owner asked about comes first.
    pub(crate) fn symbol(&self, symbol: &str, last: Option<usize>) -> Option<Found<'_>> {
        let symbol = symbol.trim_start_matches('.');
        let service = self.services.get(symbol).or_else(|| {
            let (service, _method) = symbol.rsplit_once('.')?;
            self.services.get(service)
        });
        let first = service.copied().flatten().or(last);
        self.find(first, |files| files.by_symbol.get(symbol))
    }

    /// The file of a name, of the `last` owner asked about if it has one.
    pub(crate) fn named(&self, name: &str, last: Option<usize>) -> Option<Found<'_>> {
        self.find(last, |files| files.by_name.get(name))
    }

    /// The file that extends `message` with field `number`.
    pub(crate) fn extension(&self, message: &str, number: i32, last: Option<usize>) -> Option<Found<'_>> {
        let key = (message.trim_start_matches('.').to_owned(), number);
        self.find(last, |files| files.by_extension.get(&key))
    }

    /// Returns the numbers of the fields that extend `message`; none if no owner knows the message.
    pub(crate) fn extension_numbers(&self, message: &str, last: Option<usize>) -> Option<Vec<i32>> {
        let message = message.trim_start_matches('.');
        let found = self.find(last, |files| files.by_symbol.get(message))?;
        let keys = self.owners[found.owner].by_extension.keys();
        let mut numbers: Vec<i32> =
            keys.filter(|(extended, _)| extended == message).map(|(_, number)| *number).collect();
        numbers.sort_unstable();
        Some(numbers)
    }

    /// `found` and everything it imports, of the same owner, each once.
    pub(crate) fn closure<'a>(&'a self, found: Found<'a>) -> Vec<&'a Arc<File>> {
        let files = &self.owners[found.owner];
        let mut seen = HashSet::from([found.file.name.as_str()]);
        let mut closure = vec![found.file];
        let mut next = 0;
        while let Some(file) = closure.get(next).copied() {
            next += 1;
            for import in &file.dependencies {
                if seen.insert(import) {
                    closure.extend(files.by_name.get(import));
                }
            }
        }
        closure
    }

    fn find<'a>(
        &'a self,
        first: Option<usize>,
        get: impl Fn(&'a Files) -> Option<&'a Arc<File>>,
    ) -> Option<Found<'a>> {
        let order = first.into_iter().chain(0..self.owners.len());
        order
            .filter_map(|owner| Some((owner, self.owners.get(owner)?)))
            .find_map(|(owner, files)| get(files).map(|file| Found { owner, file }))
    }
}

#[cfg(test)]
mod tests {
    use prost_types::{MethodDescriptorProto, MethodOptions, ServiceDescriptorProto};

    use super::*;

    fn file(name: &str, package: &str, imports: &[&str], service: Option<&str>, message: &str) -> File {
        let method = |name: &str, level: IdempotencyLevel| MethodDescriptorProto {
            name: Some(name.into()),
            options: Some(MethodOptions {
                idempotency_level: Some(level as i32),
                ..MethodOptions::default()
            }),
            ..MethodDescriptorProto::default()
        };
        let proto = FileDescriptorProto {
            name: Some(name.into()),
            package: Some(package.into()),
            dependency: imports.iter().map(ToString::to_string).collect(),
            message_type: vec![DescriptorProto {
                name: Some(message.into()),
                field: vec![FieldDescriptorProto { name: Some("id".into()), ..Default::default() }],
                extension: vec![FieldDescriptorProto {
                    name: Some("extra".into()),
                    number: Some(100),
                    extendee: Some(".base.Options".into()),
                    ..Default::default()
                }],
                ..Default::default()
            }],
            service: service
                .map(|service| ServiceDescriptorProto {
                    name: Some(service.into()),
                    method: vec![
                        method("Read", IdempotencyLevel::NoSideEffects),
                        method("Put", IdempotencyLevel::Idempotent),
                        method("Do", IdempotencyLevel::IdempotencyUnknown),
                    ],
                    ..Default::default()
                })
                .into_iter()
                .collect(),
            ..Default::default()
        };
        File::read(proto.encode_to_vec().into()).expect("a descriptor")
    }

    fn owner(files: impl IntoIterator<Item = File>) -> Arc<Files> {
        let mut owner = Files::default();
        files.into_iter().for_each(|file| owner.add(file));
        Arc::new(owner)
    }

    /// Two owners with a `common.proto` each, of different contents.
    fn two() -> Descriptors {
        let mut all = Descriptors::default();
        let a = [
            file("a.proto", "a", &["common.proto"], Some("A"), "Ask"),
            file("common.proto", "c", &[], None, "One"),
        ];
        let b = [
            file("b.proto", "b", &["common.proto"], Some("B"), "Ask"),
            file("common.proto", "c", &[], None, "Two"),
        ];
        all.add(owner(a), ["a.A".to_owned()]);
        all.add(owner(b), ["b.B".to_owned(), "b.Undescribed".to_owned(), "a.A".to_owned()]);
        all
    }

    #[test]
    fn idempotency_comes_from_descriptors() {
        let file = file("a.proto", "a", &[], Some("A"), "Ask");
        let levels: Vec<_> =
            file.services[0].methods.iter().map(|m| (m.name.as_str(), m.idempotent)).collect();
        assert_eq!(levels, [("Read", true), ("Put", true), ("Do", false)]);
    }

    #[test]
    fn symbols_of_every_kind_are_found() {
        let all = two();
        for (symbol, name) in [
            ("a.A", "a.proto"),
            (".a.A", "a.proto"),
            ("a.A.Read", "a.proto"),
            ("a.Ask", "a.proto"),
            ("a.Ask.id", "a.proto"),
            ("a.Ask.extra", "a.proto"),
            ("b.B.Do", "b.proto"),
        ] {
            assert_eq!(
                all.symbol(symbol, None).map(|found| found.file.name.as_str()),
                Some(name),
                "{symbol}"
            );
        }
        assert!(all.symbol("b.Undescribed", None).is_none());
        assert!(all.symbol("nothing", None).is_none());
    }

    #[test]
    fn same_named_files_keep_their_owner() {
        let all = two();
        for (service, owner, message) in [("a.A", 0, "c.One"), ("b.B", 1, "c.Two")] {
            let found = all.symbol(service, Some(1 - owner)).expect("described");
            assert_eq!(found.owner, owner);
            let closure = all.closure(found);
            assert_eq!(closure.iter().map(|f| f.name.as_str()).collect::<Vec<_>>()[1..], ["common.proto"]);
            assert!(closure[1].symbols.contains(&message.to_owned()), "{service}");
            let named = all.named("common.proto", Some(owner)).expect("there");
            assert!(Arc::ptr_eq(named.file, closure[1]), "{service}");
        }
    }

    #[test]
    fn first_owner_keeps_the_service() {
        let all = two();
        assert_eq!(all.services().collect::<Vec<_>>(), ["a.A", "b.B", "b.Undescribed"]);
    }

    #[test]
    fn extensions_are_found_by_number() {
        let all = two();
        assert_eq!(
            all.extension("base.Options", 100, Some(1)).map(|f| f.file.name.as_str()),
            Some("b.proto")
        );
        assert!(all.extension("base.Options", 7, None).is_none());
        assert_eq!(all.extension_numbers("a.Ask", None), Some(Vec::new()));
        assert_eq!(all.extension_numbers("nothing", None), None);
    }

    #[test]
    fn own_descriptors_keep_their_bytes() {
        let files = Files::of_sets(&[shoal_proto::DESCRIPTOR_SET]).expect("decodes");
        let raw = RawSet::decode(shoal_proto::DESCRIPTOR_SET).expect("decodes");
        assert_eq!(files.len(), raw.file.len());
        assert!(files.missing().is_empty());
        assert!(raw.file.iter().all(|bytes| files.by_name.values().any(|file| file.bytes == bytes)));
    }
}
