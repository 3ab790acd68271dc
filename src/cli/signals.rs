//! The signals by which a person or a service manager ends a command.

use std::io;

/// Waits for Ctrl-C, or SIGTERM where it exists.
///
/// From the first call on they no longer end the process by themselves.
pub(super) async fn ended_by_signal() -> io::Result<()> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        tokio::select! {
            _ = terminate.recv() => Ok(()),
            _ = interrupt.recv() => Ok(()),
        }
    }
    #[cfg(not(unix))]
    tokio::signal::ctrl_c().await
}
