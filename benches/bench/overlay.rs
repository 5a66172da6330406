//! As little of an overlay as the load needs: a WebSocket that reads frames and answers pings.

use std::net::SocketAddr;
use std::ops::Range;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use uuid::Uuid;

use super::http::find;

const TEXT: u8 = 1;
const CLOSE: u8 = 8;
const PING: u8 = 9;
/// A masked pong without a payload: RFC 6455, sections 5.2 and 5.5.3.
const PONG: [u8; 6] = [0x8a, 0x80, 0, 0, 0, 0];
/// Small, because there are thousands of them.
const BUFFER: usize = 1024;

/// One overlay's socket.
pub struct Overlay {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// Bytes of `buffer` that are done with.
    done: usize,
}

impl Overlay {
    /// Opens an overlay's socket.
    pub async fn open(address: SocketAddr, overlay_uuid: Uuid) -> Result<Overlay> {
        let mut overlay = Overlay::connect(address).await?;
        let request = format!(
            "GET /ws/overlay/{overlay_uuid} HTTP/1.1\r\nhost: {address}\r\nupgrade: websocket\r\n\
             connection: Upgrade\r\nsec-websocket-version: 13\r\n\
             sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        overlay.stream.write_all(request.as_bytes()).await?;
        let end = loop {
            if let Some(end) = find(&overlay.buffer, b"\r\n\r\n") {
                break end + 4;
            }
            overlay.fill().await?;
        };
        if !overlay.buffer.starts_with(b"HTTP/1.1 101") {
            bail!("the overlay was not let in: {}", String::from_utf8_lossy(&overlay.buffer));
        }
        overlay.done = end;
        Ok(overlay)
    }

    /// A connection on which frames come without any greeting.
    pub async fn connect(address: SocketAddr) -> Result<Overlay> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Overlay { stream, buffer: Vec::with_capacity(BUFFER), done: 0 })
    }

    /// The text of the next frame; answers pings meanwhile.
    pub async fn text(&mut self) -> Result<&[u8]> {
        loop {
            match self.frame() {
                Some((TEXT, payload)) => return Ok(&self.buffer[payload]),
                Some((PING, _)) => self.stream.write_all(&PONG).await?,
                Some((CLOSE, _)) => bail!("the socket was closed"),
                Some(_) => {}
                None => self.fill().await?,
            }
        }
    }

    /// The next whole frame in the buffer; servers don't mask.
    fn frame(&mut self) -> Option<(u8, Range<usize>)> {
        let head = &self.buffer[self.done..];
        let (&[first, second], rest) = head.split_first_chunk()?;
        let (length, head) = match second & 0x7f {
            126 => (usize::from(u16::from_be_bytes(*rest.first_chunk()?)), 4),
            127 => (usize::try_from(u64::from_be_bytes(*rest.first_chunk()?)).ok()?, 10),
            short => (usize::from(short), 2),
        };
        let payload = self.done + head..self.done + head + length;
        if payload.end > self.buffer.len() {
            return None;
        }
        self.done = payload.end;
        Some((first & 0x0f, payload))
    }

    async fn fill(&mut self) -> Result<()> {
        self.buffer.drain(..self.done);
        self.done = 0;
        if self.stream.read_buf(&mut self.buffer).await? == 0 {
            bail!("the connection was closed");
        }
        Ok(())
    }
}

/// A whole number in a frame, such as of `"version":`.
pub fn whole_number(text: &[u8], key: &str) -> Option<i64> {
    let digits = after(text, key)?;
    let end = digits.iter().position(|byte| !byte.is_ascii_digit() && *byte != b'-')?;
    std::str::from_utf8(&digits[..end]).ok()?.parse().ok()
}

/// A number in a frame, such as of `"value":`.
pub fn number(text: &[u8], key: &str) -> Option<f64> {
    let digits = after(text, key)?;
    let end = digits.iter().position(|byte| matches!(byte, b',' | b'}'))?;
    std::str::from_utf8(&digits[..end]).ok()?.parse().ok()
}

fn after<'a>(text: &'a [u8], key: &str) -> Option<&'a [u8]> {
    Some(&text[find(text, key.as_bytes())? + key.len()..])
}

/// How many votes a frame's state has counted.
pub fn votes(text: &[u8]) -> Result<i64> {
    let count =
        |key: &str| whole_number(text, key).with_context(|| String::from_utf8_lossy(text).into_owned());
    Ok(count("\"for\":")? + count("\"against\":")?)
}
