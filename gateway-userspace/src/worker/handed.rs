//! The worker's end of the dial path: asks, and waits for the descriptor.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use rustix::net::SendFlags;
use tokio::sync::oneshot;

use super::{
    dialer::{ANSWER, Purpose, Request},
    packet,
};

type Waiting = Mutex<Option<HashMap<u32, oneshot::Sender<io::Result<OwnedFd>>>>>;

/// Asks the supervisor for connections. Clones share the path.
#[derive(Clone, Debug)]
pub struct DialPath(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    socket: Arc<OwnedFd>,
    next: AtomicU32,
    waiting: Arc<Waiting>,
}

impl DialPath {
    /// Starts the thread that takes answers.
    pub(super) fn new(socket: OwnedFd) -> io::Result<Self> {
        let socket = Arc::new(socket);
        let waiting: Arc<Waiting> = Arc::new(Mutex::new(Some(HashMap::new())));
        let (answers, asked) = (Arc::clone(&socket), Arc::clone(&waiting));
        std::thread::Builder::new()
            .name("sluice-dial".to_owned())
            .spawn(move || {
                let result = take_answers(&answers, &asked);
                tracing::debug!(?result, "the dial path ended");
                // Whoever waits learns it by the sender that is dropped here.
                asked.lock().unwrap_or_else(PoisonError::into_inner).take();
            })?;
        Ok(Self(Arc::new(Inner {
            socket,
            next: AtomicU32::new(0),
            waiting,
        })))
    }

    /// A connection for this purpose.
    pub(crate) async fn open(
        &self,
        purpose: Purpose,
        address: SocketAddr,
        patience: Duration,
    ) -> io::Result<OwnedFd> {
        let id = self.0.next.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        match &mut *self
            .0
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
        {
            Some(waiting) => waiting.insert(id, sender),
            None => return Err(io::ErrorKind::BrokenPipe.into()),
        };
        let _forget = Forget(&self.0.waiting, id);
        let request = Request {
            id,
            purpose,
            address,
            patience,
        };
        packet::send(&*self.0.socket, &request.encode(), &[], SendFlags::DONTWAIT)?;
        // The supervisor keeps the time; this is for one that does not answer.
        match tokio::time::timeout(patience + Duration::from_secs(1), answer).await {
            Ok(Ok(opened)) => opened,
            Ok(Err(_)) => Err(io::ErrorKind::BrokenPipe.into()),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

/// Forgets a request however its waiting ends.
struct Forget<'a>(&'a Waiting, u32);

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(waiting) = &mut *waiting {
            waiting.remove(&self.1);
        }
    }
}

fn take_answers(socket: &OwnedFd, waiting: &Waiting) -> io::Result<()> {
    let mut buffer = [0; ANSWER];
    while let Some((_, descriptors)) = packet::receive_all(socket, &mut buffer)? {
        let [a, b, c, d, errno @ ..] = buffer;
        let id = u32::from_be_bytes([a, b, c, d]);
        let descriptor = descriptors.map(|mut descriptors| descriptors.pop());
        let opened = match (i32::from_be_bytes(errno), descriptor) {
            (0, Ok(Some(descriptor))) => Ok(descriptor),
            (0, Err(no_room)) => Err(no_room),
            (errno, _) => Err(io::Error::from_raw_os_error(errno)),
        };
        let sender = waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_mut()
            .and_then(|waiting| waiting.remove(&id));
        if let Some(sender) = sender {
            // Whoever asked may have given up: the descriptor closes.
            let _gone = sender.send(opened);
        }
    }
    Ok(())
}
