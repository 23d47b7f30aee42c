//! The threads that turn batches into embeddings.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use ndarray::Array2;
use tokio::sync::oneshot;
use tracing::{debug, error};

use crate::metrics;
use crate::model::Encoder;
use crate::queue::{Answer, Bounds, Failure, Item, Queue, Refused};

/// A queue and the threads that serve it: as many as there are batches that are worth computing at the same time, with one each. While the
/// device has the attention of one batch, the CPU computes what lies between the layers of another.
pub struct Engine {
    queue: Arc<Queue>,
    /// Whether the last batch has failed.
    failing: Arc<AtomicBool>,
    workers: Mutex<Vec<JoinHandle<()>>>,
}

impl Engine {
    /// Starts the threads.
    ///
    /// # Errors
    /// The system's, where it has no thread to give.
    pub fn start(encoder: Encoder, bounds: Bounds) -> std::io::Result<Self> {
        let (queue, failing) = (Arc::new(Queue::new(bounds)), Arc::new(AtomicBool::new(false)));
        let engine = Engine { queue, failing, workers: Mutex::default() };
        let encoder = Arc::new(encoder);
        for i in 0..encoder.in_flight() {
            let (queue, failing, encoder) = (engine.queue.clone(), engine.failing.clone(), encoder.clone());
            let worker = thread::Builder::new().name(format!("batches {i}")).spawn(move || {
                while let Some(batch) = queue.next_batch() {
                    metrics::waiting(queue.len());
                    serve(&encoder, batch, &failing);
                }
            })?;
            engine.lock().push(worker);
        }
        Ok(engine)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Whether so many sentences would be taken now.
    ///
    /// # Errors
    /// As [`submit`](Self::submit).
    pub fn check_room(&self, sentences: usize) -> Result<(), Refused> {
        self.queue.check_room(sentences)
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

    /// Takes no more sentences, serves those that wait and ends the threads.
    pub fn stop(&self) {
        self.queue.close();
        let workers = std::mem::take(&mut *self.lock());
        for worker in workers {
            if worker.join().is_err() {
                error!("a thread that computes has panicked");
            }
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Computes a batch and answers all of its sentences.
fn serve(encoder: &Encoder, batch: Vec<Item>, failing: &AtomicBool) {
    let start = Instant::now();
    let sentences: Vec<&[u32]> = batch.iter().map(|item| item.ids.as_slice()).collect();
    let tokens: usize = sentences.iter().map(|ids| ids.len()).sum();
    let result = compute(encoder, &sentences);
    let seconds = start.elapsed().as_secs_f64();
    debug!(sentences = batch.len(), tokens, ms = seconds * 1e3, "batch");
    metrics::batch(batch.len(), tokens, seconds, batch.iter().map(|item| start - item.since));
    // Before anybody hears of it, who may ask next how the service is. Relaxed: nothing else is read because of it.
    failing.store(result.is_err(), Ordering::Relaxed);
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
}

/// The embeddings of a batch. A panic, which would be a bug, fails the batch and leaves the service running.
fn compute(encoder: &Encoder, sentences: &[&[u32]]) -> Result<Array2<f32>, Failure> {
    // The encoder is not changed by a batch, but for the device's spare buffers, which are whole at every moment.
    let result = catch_unwind(AssertUnwindSafe(|| encoder.embed(sentences)));
    Ok(result.map_err(|panic| Failure::Defect(words(panic.as_ref())))??)
}

/// What a panic said.
fn words(panic: &(dyn Any + Send)) -> String {
    let said = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    format!("a panic: {}", said.unwrap_or("without words"))
}
