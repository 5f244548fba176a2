# One static binary, and nothing else: the same file is the CNI plugin, which each node runs with its own libraries or none.
# Both architectures are built on the builder's own: docker buildx build --platform linux/amd64,linux/arm64 .
# Debian 12's libelf.a needs zlib alone; later ones need zstd too.
FROM --platform=$BUILDPLATFORM rust:1.95-bookworm AS build
ARG BUILDARCH
ARG TARGETARCH
RUN dpkg --add-architecture $TARGETARCH \
 && case $BUILDARCH-$TARGETARCH in \
      amd64-arm64) cross="gcc-aarch64-linux-gnu libc6-dev-arm64-cross" ;; \
      arm64-amd64) cross="gcc-x86-64-linux-gnu libc6-dev-amd64-cross" ;; \
      *) cross= ;; \
    esac \
 && apt-get update -qq && apt-get install -y -qq --no-install-recommends clang llvm pkg-config make gcc libc6-dev $cross \
    libelf-dev zlib1g-dev libelf-dev:$TARGETARCH zlib1g-dev:$TARGETARCH linux-libc-dev:$TARGETARCH \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target,id=target-$TARGETARCH \
    e2e/image/binary $TARGETARCH /palisade

FROM scratch
COPY --from=build /palisade /palisade
ENTRYPOINT ["/palisade"]
CMD ["run"]
