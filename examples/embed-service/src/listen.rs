//! Connections: each has a time for the head of a request, and all are finished when the service stops.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tracing::debug;

/// Serves until `stop` is done, then takes no more connections and finishes those that there are: idle ones at once, the others when their
/// request is answered. One that has been idle, or at the head of a request, for `patience` is closed, where `axum::serve` would keep it, and
/// the service, for as long as the client likes.
pub async fn serve(mut listener: TcpListener, router: Router, patience: Duration, stop: impl Future<Output = ()>) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(patience);
    let (connections, mut stop) = (GracefulShutdown::new(), pin!(stop));
    loop {
        // Waits where there are too many open files; other errors are those of one connection.
        let (stream, client) = tokio::select! {
            accepted = Listener::accept(&mut listener) => accepted,
            () = &mut stop => break,
        };
        let service = TowerToHyperService::new(router.clone());
        let connection = connections.watch(http.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                debug!(%client, "connection: {error}");
            }
        });
    }
    drop(listener);
    connections.shutdown().await;
}
