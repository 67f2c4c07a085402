# One image for all roles; a container's command says which: `serve session`.
#
#   docker build -t shoal .
#   docker run --rm --network host shoal up --ephemeral
#
# Image names are whole, so that builders that know no default registry find them too.

FROM docker.io/library/rust:1-bookworm AS build
WORKDIR /src
COPY . .
# What cargo fetched and compiled stays in the builder's own caches, so that a second build compiles our crates only. They
# are touched, since cargo tells by time what has changed and another checkout's build may have filled the cache later
# than this one's files were written. The binary is taken out in the same step: a cache is no part of a layer. Locked: two
# builds must not write into one cache at once.
RUN --mount=type=cache,id=shoal-registry,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,id=shoal-target,target=/src/target,sharing=locked \
    find apps crates proto services -type f -exec touch {} + \
    && cargo build --locked --profile dist --package shoal --bin shoal \
    && install -D target/dist/shoal /out/shoal

FROM docker.io/library/debian:bookworm-slim
# The home is for `shoal up`, whose embedded engines write to ./.shoal; a clone on real engines writes nothing.
RUN useradd --uid 10001 --home-dir /var/lib/shoal --create-home --skel /nonexistent shoal
COPY --from=build /out/shoal /usr/local/bin/shoal
# A number, so that Kubernetes can see that it is not root.
USER 10001
WORKDIR /var/lib/shoal
# Begins the drain; see stop_grace_period in docker-compose.yml.
STOPSIGNAL SIGTERM
ENTRYPOINT ["shoal"]
CMD ["--help"]
