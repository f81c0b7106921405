//! Upstreams that write down what reaches them.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::rig::in_time;

/// An upstream on loopback.
#[derive(Clone)]
pub(super) struct Origin {
    pub(super) address: SocketAddr,
    heard: Arc<Mutex<Vec<u8>>>,
    connections: Arc<AtomicUsize>,
}

/// One connection that an origin accepted.
pub(super) struct Call {
    pub(super) stream: TcpStream,
    heard: Arc<Mutex<Vec<u8>>>,
    ahead: Vec<u8>,
}

impl Origin {
    /// Answers every connection as the script says.
    pub(super) async fn scripted<F, T>(script: F) -> Self
    where
        F: Fn(Call, usize) -> T + Send + Sync + 'static,
        T: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = Self {
            address: listener.local_addr().unwrap(),
            heard: Arc::default(),
            connections: Arc::default(),
        };
        let (heard, connections) = (Arc::clone(&origin.heard), Arc::clone(&origin.connections));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let count = connections.fetch_add(1, Ordering::SeqCst);
                let call = Call {
                    stream,
                    heard: Arc::clone(&heard),
                    ahead: Vec::new(),
                };
                tokio::spawn(script(call, count));
            }
        });
        origin
    }

    /// Answers every request with these bytes.
    pub(super) async fn answering(response: impl Into<Vec<u8>>) -> Self {
        let response: Arc<[u8]> = response.into().into();
        Self::scripted(move |mut call, _| {
            let response = Arc::clone(&response);
            async move {
                while call.request().await.is_some() {
                    if call.stream.write_all(&response).await.is_err() {
                        return;
                    }
                }
            }
        })
        .await
    }

    /// Answers every request with 200 and a short body.
    pub(super) async fn plain() -> Self {
        Self::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await
    }

    /// Sends back what it gets.
    pub(super) async fn echo() -> Self {
        Self::scripted(|mut call, _| async move {
            while let Some(bytes) = call.some().await {
                if call.stream.write_all(&bytes).await.is_err() {
                    return;
                }
            }
        })
        .await
    }

    /// All that has reached it.
    pub(super) fn heard(&self) -> String {
        String::from_utf8_lossy(&self.heard.lock().unwrap()).into_owned()
    }

    /// All that has reached it.
    pub(super) fn heard_bytes(&self) -> Vec<u8> {
        self.heard.lock().unwrap().clone()
    }

    /// Waits until this has reached it.
    pub(super) async fn hears(&self, what: &str) {
        let waiting = async {
            while !self.heard().contains(what) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        in_time(waiting).await;
    }

    /// Connections that it accepted.
    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Call {
    /// Some bytes more; none at the end.
    pub(super) async fn some(&mut self) -> Option<Vec<u8>> {
        if !self.ahead.is_empty() {
            return Some(std::mem::take(&mut self.ahead));
        }
        let mut bytes = vec![0; 64 * 1024];
        let read = self.stream.read(&mut bytes).await.unwrap_or(0);
        bytes.truncate(read);
        self.heard.lock().unwrap().extend_from_slice(&bytes);
        (read > 0).then_some(bytes)
    }

    /// Reads up to the end of this.
    pub(super) async fn until(&mut self, end: &[u8]) -> Option<Vec<u8>> {
        let mut all = Vec::new();
        loop {
            all.extend(self.some().await?);
            if let Some(at) = all.windows(end.len()).position(|window| window == end) {
                self.ahead = all.split_off(at + end.len());
                return Some(all);
            }
        }
    }

    /// Reads one request with its body, as its framing says.
    pub(super) async fn request(&mut self) -> Option<String> {
        let head = self.until(b"\r\n\r\n").await?;
        let mut request = String::from_utf8_lossy(&head).into_owned();
        let field = |name: &str| {
            let mut lines = request.lines().filter_map(|line| line.split_once(": "));
            lines
                .find(|(found, _)| *found == name)
                .map(|(_, value)| value.to_owned())
        };
        if let Some(length) = field("Content-Length") {
            let mut left: usize = length.parse().unwrap();
            while left > 0 {
                let mut bytes = self.some().await?;
                self.ahead = bytes.split_off(left.min(bytes.len()));
                left -= bytes.len();
                request += &String::from_utf8_lossy(&bytes);
            }
        } else if field("Transfer-Encoding").is_some() {
            let mut body = self.until(b"0\r\n").await?;
            body.extend(self.until(b"\r\n").await?);
            while !body.ends_with(b"\r\n\r\n") {
                body.extend(self.until(b"\r\n").await?);
            }
            request += &String::from_utf8_lossy(&body);
        }
        Some(request)
    }

    /// Sends.
    pub(super) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        // Where the gateway is gone the test sees it at the other end.
        let _gone = self.stream.write_all(bytes.as_ref()).await;
    }

    /// No more will be sent.
    pub(super) async fn finish(&mut self) {
        let _gone = self.stream.shutdown().await;
    }
}
