//! Has events happen, one after the other, and sees to it that every way is right again after each.

use std::path::Path;
use std::time::{Duration, Instant};

use agent_common::Counter;
use anyhow::{Context as _, Result, ensure};

use super::crowd::{crowd, flood};
use super::event::Event;
use super::ledger::Ledger;
use super::promise::Change;
use super::stage::{ORIGINS, Service, Stage};
use super::subject::{Subject, ended};
use super::way::Way;
use crate::addresses::Family;
use crate::agent::taken::{TAKEN, command, pin, put_back};
use crate::random::Random;
use crate::stop::Stop;
use crate::wait::{Limit, eventually, within};

/// Programs whose links somebody removes, and what follows.
const LINKS: [(&str, Change); 5] = [
    ("truepeer_steer", Change::Diverted),
    ("truepeer_lookup", Change::Diverted),
    ("truepeer_learn", Change::Unlearnt),
    ("truepeer_peer4", Change::Hidden),
    ("truepeer_peer6", Change::Hidden),
];
/// How long it may take until something that was taken away is back.
const BACK: Limit = Limit::secs(2);
/// How long it may take until every way is right again: longer than what hangs.
const RIGHT: Limit = Limit::secs(60);
/// How many clients are in a crowd: more than have room in the map of origins.
const CROWD: usize = ORIGINS as usize + 100;
/// How many handshakes begin in a flood: more than a listener's queue holds.
const FLOOD: usize = 3000;
/// Of a thousand packets, so many are lost, and so many come late.
const WEATHERS: [(usize, usize); 4] = [(0, 0), (15, 0), (0, 40), (10, 20)];
/// Logs are emptied when they are longer, in bytes.
const LONG: u64 = 1 << 21;
/// How often the account is printed.
const ACCOUNT: Duration = Duration::from_secs(60);

/// What goes on.
pub(super) struct Scheduler<'a> {
    pub(super) stage: &'a Stage,
    pub(super) ledger: &'a Ledger,
    pub(super) stop: Stop,
    pub(super) random: Random,
    pub(super) subject: Subject,
    /// `None` while it restarts.
    pub(super) service: Option<Service>,
    /// Where logs are.
    pub(super) directory: &'a Path,
}

impl Scheduler<'_> {
    /// Has events happen for so long, but at least until each has happened.
    pub(super) fn run(&mut self, time: Duration) -> Result<()> {
        self.all_right_again("at first")?;
        let mut printed = Instant::now();
        let mut is_first = true;
        while is_first || self.ledger.elapsed() < time {
            for event in Event::deck(&self.random) {
                if !is_first && self.ledger.elapsed() >= time {
                    break;
                }
                self.stop.sleep(self.moment(500))?;
                let from = self.ledger.elapsed();
                let what = self.perform(event).with_context(|| format!("{event:?}"))?;
                let took = self.ledger.elapsed() - from;
                println!(
                    "{:8.2} s: {what} ({:.2} s)",
                    from.as_secs_f64(),
                    took.as_secs_f64()
                );
                self.ledger.happened(event.name());
                self.all_right_again(&what)?;
                self.trim_logs()?;
                if printed.elapsed() > ACCOUNT {
                    printed = Instant::now();
                    self.ledger.print();
                }
            }
            is_first = false;
        }
        Ok(())
    }

    fn moment(&self, most: usize) -> Duration {
        Duration::from_millis(self.random.below(most) as u64)
    }

    /// Waits until connections of every way and family have been right once more.
    fn all_right_again(&self, after: &str) -> Result<()> {
        let before = self.ledger.right();
        let all = Way::ALL.len() * Family::ALL.len();
        within(RIGHT, &format!("every way is right after {after}"), || {
            self.stop.check()?;
            self.ledger.check()?;
            let now = self.ledger.right();
            let more = now
                .iter()
                .filter(|(key, right)| **right > before.get(*key).copied().unwrap_or(0));
            Ok((more.count() == all).then_some(()))
        })
    }

    /// Has something happen; returns what it was.
    fn perform(&mut self, event: Event) -> Result<String> {
        let ledger = self.ledger;
        match event {
            Event::Kill => {
                let what = "killed and started";
                let _changing = ledger.begin(Change::Killed, what);
                self.kill_and_start()?;
                Ok(what.into())
            }
            Event::Restart => {
                let what = "stopped and started";
                let _changing = ledger.begin(Change::Stopped, what);
                self.subject.stop()?;
                self.stop.sleep(self.moment(500))?;
                self.subject.start()?;
                Ok(what.into())
            }
            Event::Takeover => {
                self.take_over()?;
                Ok("taken over".into())
            }
            Event::Upgrade => {
                let (changes, what) = self.subject.change_version(&self.random);
                let what = format!("killed, and started {what}");
                let _others = ledger.begin_all(changes, &what);
                let _changing = ledger.begin(Change::Killed, &*what);
                self.kill_and_start()?;
                Ok(what)
            }
            Event::UpgradeByTakeover => {
                let (changes, what) = self.subject.change_version(&self.random);
                let what = format!("taken over by {what}");
                let _others = ledger.begin_all(changes, &what);
                self.take_over()?;
                Ok(what)
            }
            Event::Good => {
                let (change, config, what) =
                    self.subject.another_good_one(self.stage, &self.random);
                let what = format!("read a configuration with {what}");
                let _changing = ledger.begin(change, &*what);
                self.subject.reload(config)?;
                Ok(what)
            }
            Event::Bad => {
                let _changing = ledger.begin(Change::Refused, "refused a configuration");
                let name = self.subject.refuse(&self.random)?;
                Ok(format!("refused a configuration {name}"))
            }
            Event::Service => {
                let what = "a trusted service and its cgroup restarted";
                let _changing = ledger.begin(Change::Service, what);
                drop(self.service.take());
                self.stop.sleep(self.moment(500))?;
                self.service = Some(self.stage.service()?);
                Ok(what.into())
            }
            Event::Taken => self.take_away(),
            Event::Crowd => {
                let what = "a crowd filled the map of origins";
                self.stage.cable.weather.becomes(0, 0);
                let _changing = ledger.begin(Change::Full, what);
                let agent = self.subject.agent()?;
                let untold = agent.counter(Counter::OriginsFull)?;
                let crowd = crowd(self.stage, CROWD)?;
                let untold = agent.counter(Counter::OriginsFull)? - untold;
                ensure!(untold > 0, "there was room for everybody");
                self.stop.sleep(self.moment(500))?;
                drop(crowd);
                eventually("there is room for origins", || {
                    Ok((agent.origins()? < u64::from(ORIGINS) / 2).then_some(()))
                })?;
                Ok(what.into())
            }
            Event::Flood => {
                let what = "a flood of handshakes";
                let _changing = ledger.begin(Change::Flooded, what);
                let flood = flood(self.stage, FLOOD)?;
                self.stop.sleep(self.moment(2000))?;
                drop(flood);
                Ok(what.into())
            }
            Event::Weather => {
                let (lost, late) = self.random.pick(&WEATHERS);
                let what = format!("of 1000 packets, {lost} are lost and {late} come late");
                let _changing = ledger.begin(Change::Weather, &*what);
                self.stage.cable.weather.becomes(lost, late);
                Ok(what)
            }
        }
    }

    fn kill_and_start(&mut self) -> Result<()> {
        self.subject.kill()?;
        self.stop.sleep(self.moment(500))?;
        self.subject.start()
    }

    fn take_over(&mut self) -> Result<()> {
        let former = {
            let _changing = self.ledger.begin(Change::Followed, "taken over");
            self.subject.take_over()?
        };
        self.stop.sleep(self.moment(500))?;
        let _changing = self.ledger.begin(Change::Ended, "the former agent ended");
        ended(former)
    }

    fn take_away(&self) -> Result<String> {
        let agent = self.subject.agent()?;
        let server = &self.stage.gateway.server;
        let n = self.random.below(TAKEN.len() + LINKS.len());
        let (kind, change, what) = match TAKEN.get(n) {
            Some((kind, line)) => (*kind, Change::Diverted, format!("`{line}`")),
            None => {
                let (program, change) = LINKS[n - TAKEN.len()];
                ("link", change, format!("{program} detached"))
            }
        };
        let _changing = self.ledger.begin(change, &*what);
        let before = put_back(agent, kind)?;
        match TAKEN.get(n) {
            Some((_, line)) => command(server, line)?,
            None => {
                let pin = pin(agent, LINKS[n - TAKEN.len()].0)?;
                let Some(pin) = pin else {
                    return Ok(format!("{what}: this kernel has no such link"));
                };
                std::fs::remove_file(pin)?;
            }
        }
        within(BACK, &format!("{what}: it is put back"), || {
            Ok((put_back(agent, kind)? > before).then_some(()))
        })?;
        Ok(what)
    }

    /// Empties logs that have become long.
    fn trim_logs(&self) -> Result<()> {
        for entry in std::fs::read_dir(self.directory)? {
            let entry = entry?;
            let path = entry.path();
            let is_log = path.extension().is_some_and(|e| e == "log" || e == "jsonl");
            if is_log && entry.metadata()?.len() > LONG {
                std::fs::File::options()
                    .write(true)
                    .open(path)?
                    .set_len(0)?;
            }
        }
        Ok(())
    }
}
