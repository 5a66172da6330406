# ChatPulse as one image; compose.yaml runs it with PostgreSQL and Redis.
FROM rust:1-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --locked --release

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --create-home chatpulse
COPY --from=build /src/target/release/chatpulse /usr/local/bin/chatpulse
USER chatpulse
EXPOSE 8080
ENTRYPOINT ["chatpulse"]
CMD ["serve"]
