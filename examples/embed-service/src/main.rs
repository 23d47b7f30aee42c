//! `embed-service --model FOLDER`: see `--help` and README.md.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::Parser;
use embed_service::config::Options;
use embed_service::service::{Service, ServiceError};
use tokio::signal::unix::{SignalKind, signal};
use tracing::error;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

fn main() -> ExitCode {
    let options = Options::parse();
    match options.log.parse::<Targets>() {
        Ok(targets) => {
            let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
            // Colours are for people, not for files.
            let lines = lines.with_ansi(std::io::stderr().is_terminal());
            tracing_subscriber::registry().with(lines).with(targets).init();
        }
        Err(wrong) => {
            eprintln!("error: --log {}: {wrong}", options.log);
            return ExitCode::FAILURE;
        }
    }
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), ServiceError> {
    if options.threads > 0 {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(options.threads).build_global();
        pool.map_err(|error| ServiceError::Thread(std::io::Error::other(error)))?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(ServiceError::Thread)?;
    runtime.block_on(async {
        // Before anything is said, so that whoever reads the address may send a signal at once.
        let stop = stop_signal().map_err(ServiceError::Thread)?;
        let service = Service::new(options).await?;
        // The one line on standard output, for programs that start this one; nobody has to read it.
        let _ =
            writeln!(std::io::stdout(), "listening on http://{} (process {})", service.address(), std::process::id());
        service.run(stop).await
    })
}

/// Done when the process gets SIGINT or SIGTERM.
fn stop_signal() -> std::io::Result<impl Future<Output = ()> + Send> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}
