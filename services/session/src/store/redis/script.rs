//! The Lua scripts, each with the files it builds on in front.

use std::sync::LazyLock;

use shoal_redis_link::Script;

macro_rules! script {
    ($(#[$doc:meta])* $name:ident, $span:literal, $($file:literal),+) => {
        $(#[$doc])*
        pub(super) static $name: LazyLock<Script> =
            LazyLock::new(|| Script::new($span, concat!($(include_str!($file)),+)));
    };
}

script!(CREATE, "session.create", "prelude.lua", "emit.lua", "no_room.lua", "create.lua");
script!(
    /// Creates a session for a user who has as many as allowed, or more.
    CREATE_CROWDED,
    "session.create",
    "prelude.lua",
    "emit.lua",
    "finish.lua",
    "make_room.lua",
    "create.lua"
);
script!(
    USE,
    "session.use",
    "prelude.lua",
    "emit.lua",
    "finish.lua",
    "growth.lua",
    "fetch.lua",
    "present.lua",
    "use.lua"
);
script!(UPDATE, "session.update", "prelude.lua", "fetch.lua", "current.lua", "change.lua", "update.lua");
script!(
    /// Updates a session by any of its tokens, not only the current one.
    UPDATE_PRESENTED,
    "session.update",
    "prelude.lua",
    "emit.lua", "finish.lua",
    "fetch.lua",
    "present.lua",
    "change.lua",
    "update.lua"
);
script!(
    ROTATE,
    "session.rotate",
    "prelude.lua",
    "emit.lua",
    "finish.lua",
    "growth.lua",
    "fetch.lua",
    "present.lua",
    "change.lua",
    "rotate.lua"
);
script!(
    REVOKE,
    "session.revoke",
    "prelude.lua",
    "emit.lua",
    "finish.lua",
    "growth.lua",
    "fetch.lua",
    "present.lua",
    "revoke.lua"
);
script!(REVOKE_USER, "session.revoke_user", "prelude.lua", "emit.lua", "finish.lua", "revoke_user.lua");
script!(
    SWEEP,
    "session.sweep",
    "prelude.lua",
    "emit.lua",
    "finish.lua",
    "growth.lua",
    "fetch.lua",
    "sweep.lua"
);
pub(super) static HISTORY: LazyLock<Script> = LazyLock::new(|| {
    Script::reading("session.history", concat!(include_str!("prelude.lua"), include_str!("history.lua")))
});

/// Scripts of the sweeper, which name all their keys.
pub(super) static LEASE: LazyLock<Script> =
    LazyLock::new(|| Script::of_declared_keys("session.lease", include_str!("lease.lua")));
pub(super) static SOON: LazyLock<Script> =
    LazyLock::new(|| Script::of_declared_keys("session.soon", include_str!("soon.lua")));

/// Returns all scripts, to be loaded with each connection.
pub(super) fn all() -> Vec<Script> {
    [
        &CREATE,
        &CREATE_CROWDED,
        &USE,
        &UPDATE,
        &UPDATE_PRESENTED,
        &ROTATE,
        &REVOKE,
        &REVOKE_USER,
        &SWEEP,
        &HISTORY,
        &LEASE,
        &SOON,
    ]
    .into_iter()
    .map(|script| Script::clone(script))
    .collect()
}
