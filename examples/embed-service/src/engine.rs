//! The thread that turns batches into embeddings.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use ndarray::Array2;
use tokio::sync::oneshot;
use tracing::{debug, error};

use crate::metrics;
use crate::model::Encoder;
use crate::queue::{Answer, Bounds, Failure, Item, Queue, Refused};

/// A queue and the thread that serves it.
pub struct Engine {
    queue: Arc<Queue>,
    /// Whether the last batch has failed.
    failing: Arc<AtomicBool>,
    worker: Mutex<Option<JoinHandle<()>>>,
}

impl Engine {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system's, where it has no thread to give.
    pub fn start(encoder: Encoder, bounds: Bounds) -> std::io::Result<Self> {
        let (queue, failing) = (Arc::new(Queue::new(bounds)), Arc::new(AtomicBool::new(false)));
        let worker = thread::Builder::new().name("batches".to_owned()).spawn({
            let (queue, failing) = (Arc::clone(&queue), Arc::clone(&failing));
            move || {
                while let Some(batch) = queue.next_batch() {
                    metrics::waiting(queue.len());
                    // Relaxed: nothing else is read because of it.
                    failing.store(!serve(&encoder, batch), Ordering::Relaxed);
                }
            }
        })?;
        Ok(Engine { queue, failing, worker: Mutex::new(Some(worker)) })
    }

    /// Queues sentences. Each has a receiver for its embedding.
    ///
    /// # Errors
    /// [`Refused`] when they do not fit, or the service is stopping.
    pub fn submit(&self, sentences: Vec<Vec<u32>>) -> Result<Vec<oneshot::Receiver<Answer>>, Refused> {
        let since = Instant::now();
        let (items, receivers) = sentences
            .into_iter()
            .map(|ids| {
                let (answer, receiver) = oneshot::channel();
                (Item { ids, since, answer }, receiver)
            })
            .unzip();
        self.queue.push(items)?;
        metrics::waiting(self.queue.len());
        Ok(receivers)
    }

    /// Sentences that wait.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Whether the last batch has failed.
    pub fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    /// From now on no batch waits to be filled.
    pub fn hurry(&self) {
        self.queue.hurry();
    }

    /// Takes no more sentences, serves those that wait and ends the thread.
    pub fn stop(&self) {
        self.queue.close();
        let worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner).take();
        if worker.is_some_and(|worker| worker.join().is_err()) {
            error!("the thread that computes has panicked");
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Computes a batch and answers all of its sentences. Whether it succeeded.
fn serve(encoder: &Encoder, batch: Vec<Item>) -> bool {
    let start = Instant::now();
    let sentences: Vec<&[u32]> = batch.iter().map(|item| item.ids.as_slice()).collect();
    let tokens: usize = sentences.iter().map(|ids| ids.len()).sum();
    let result = compute(encoder, &sentences);
    let seconds = start.elapsed().as_secs_f64();
    debug!(sentences = batch.len(), tokens, ms = seconds * 1e3, "batch");
    metrics::batch(batch.len(), tokens, seconds, batch.iter().map(|item| start - item.since));
    let failed = result.is_err();
    // A send fails where nobody waits any more, which is no one's loss.
    match result {
        Ok(embeddings) => batch.into_iter().zip(embeddings.rows()).for_each(|(item, row)| {
            let _ = item.answer.send(Ok(row.to_vec()));
        }),
        Err(failure) => {
            error!("a batch of {tokens} tokens has failed: {failure}");
            metrics::failed(batch.len());
            batch.into_iter().for_each(|item| {
                let _ = item.answer.send(Err(failure.clone()));
            });
        }
    }
    !failed
}

/// The embeddings of a batch. A panic, which would be a bug, fails the batch and leaves the service running.
fn compute(encoder: &Encoder, sentences: &[&[u32]]) -> Result<Array2<f32>, Failure> {
    // The encoder is not changed by a batch, but for the device's buffers, which the next one overwrites.
    let result = catch_unwind(AssertUnwindSafe(|| encoder.embed(sentences)));
    let embeddings = result.map_err(|panic| Failure(words(panic.as_ref())))?;
    embeddings.map_err(|error| Failure(error.to_string()))
}

/// What a panic said.
fn words(panic: &(dyn Any + Send)) -> String {
    let said = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    format!("the computation has panicked: {}", said.unwrap_or("without words"))
}
