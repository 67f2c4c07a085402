//! The names of the gRPC codes, as the specification spells them.

pub use shoal_grpc_code::CODES;
use tonic::Code;

/// Returns the name of a code, for example `NOT_FOUND`.
#[must_use]
pub fn code_name(code: Code) -> &'static str {
    CODES[code as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_name() {
        for number in 0..17 {
            let code = Code::from(number);
            assert_eq!(code_name(code).replace('_', "").to_lowercase(), format!("{code:?}").to_lowercase());
        }
    }
}
