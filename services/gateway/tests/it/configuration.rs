//! Configuration files that are refused, and what is said of them.

use shoal_gateway::Gateway;

use crate::harness::mesh::settings;

#[tokio::test]
async fn renamed_keys_name_their_successor() {
    for (section, old, new, value) in [
        ("connection", "age", "max_age", "'30m'"),
        ("connection", "age_grace", "max_age_grace", "'10m'"),
        ("connection", "idle", "max_idle", "'5m'"),
        ("ejection", "first", "base_ejection_time", "'1s'"),
        ("ejection", "share", "failure_ratio", "0.5"),
        ("ejection", "panic_below", "panic_threshold", "0.5"),
    ] {
        let (old_settings, _file) = settings(&format!("[gateway.{section}]\n{old} = {value}"));
        let error = Gateway::bind(&old_settings).err().expect("refused").to_string();
        let expected = format!("the key `{old}` of [gateway.{section}] is now called `{new}`");
        assert!(error.contains(&expected), "{error}");
        let (new_settings, _file) = settings(&format!("[gateway.{section}]\n{new} = {value}"));
        assert!(Gateway::bind(&new_settings).is_ok(), "{new}");
    }
}
