//! The service's process: started, watched, stopped.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// A running service.
pub struct Process {
    child: Child,
    /// Where it listens.
    pub address: String,
    /// Its own number, which is not the child's where another program runs it.
    pub id: u32,
}

impl Process {
    /// Starts the service and waits until it listens.
    pub fn start(command: &[String]) -> Result<Self, String> {
        let (program, words) = command.split_first().ok_or("there is no command")?;
        let mut child = Command::new(program)
            .args(words)
            .args(["--listen", "127.0.0.1:0"])
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("cannot start {program}: {error}"))?;
        let mut lines = BufReader::new(child.stdout.take().ok_or("the service has no output")?).lines();
        let (address, id) = loop {
            let line =
                lines.next().ok_or("the service has ended before it listened")?.map_err(|error| error.to_string())?;
            println!("{line}");
            if let Some(found) = listening(&line) {
                break found;
            }
        };
        // Whatever else is said, so that nobody waits for a full pipe.
        thread::spawn(move || lines.map_while(Result::ok).for_each(|line| println!("{line}")));
        Ok(Process { child, address, id })
    }

    /// Tells the service to stop and waits for it.
    pub fn stop(mut self) -> Result<(), String> {
        let kill = Command::new("kill").args(["-TERM", &self.id.to_string()]).status();
        kill.map_err(|error| format!("cannot send a signal: {error}"))?;
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            match self.child.try_wait().map_err(|error| error.to_string())? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(status.to_string()),
                None if Instant::now() < end => thread::sleep(Duration::from_millis(20)),
                None => return Err("it still runs a minute later".to_owned()),
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Where something went wrong before it was stopped; an error where it was.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Address and process of `listening on http://127.0.0.1:8080 (process 17)`.
fn listening(line: &str) -> Option<(String, u32)> {
    let (address, process) = line.strip_prefix("listening on http://")?.split_once(" (process ")?;
    Some((address.to_owned(), process.strip_suffix(')')?.parse().ok()?))
}
