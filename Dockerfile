# Builds both binaries in a container and puts them into an image without a shell.
#
#   docker build -t berry-api:latest .
#   docker run -p 3000:3000 -v ./config.toml:/app/config.toml:ro berry-api:latest
#
# Without a configuration the image runs its example, on the built-in demo upstream.
FROM rust:1.95-bookworm AS builder
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --locked --profile dist -p berry-api -p berry-cli \
    && mkdir -p /out/data && cp target/dist/berry-api target/dist/berry-cli /out/

FROM gcr.io/distroless/cc-debian12:nonroot
WORKDIR /app
COPY --from=builder /out/berry-api /out/berry-cli /usr/local/bin/
COPY --from=builder /src/config-example.toml /app/
COPY --from=builder --chown=65532:65532 /out/data /data
ENV BIND_ADDRESS=0.0.0.0:3000 BERRY_DATA_DIR=/data
VOLUME /data
EXPOSE 3000
USER 65532
HEALTHCHECK --interval=30s --timeout=10s --start-period=5s --retries=3 CMD ["/usr/local/bin/berry-api", "--health"]
ENTRYPOINT ["/usr/local/bin/berry-api"]
