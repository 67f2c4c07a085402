//! Bindings and the descriptor set of every Shoal service. Generated code, its module tree and its codec: no logic.
#![allow(missing_docs, clippy::all, unreachable_pub)]

pub mod codec;
pub mod convert;
pub mod elements;

/// The fields of each request that are lists and messages.
mod shapes {
    #![allow(dead_code)]
    use crate::*;
    include!(concat!(env!("OUT_DIR"), "/shapes.rs"));
}

/// The `FileDescriptorSet` of all Shoal services, with comments and imports: what reflection serves.
pub const DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/shoal.bin"));

macro_rules! package {
    ($service:ident) => {
        pub mod $service {
            pub mod v1 {
                include!(concat!(env!("OUT_DIR"), "/shoal.", stringify!($service), ".v1.rs"));
            }
        }
    };
}

package!(cache);
package!(data);
package!(gateway);
package!(jobs);
package!(session);

pub mod r#type {
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/shoal.r#type.v1.rs"));
    }
}
