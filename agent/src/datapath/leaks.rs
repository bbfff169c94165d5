//! Origins that outlive their sockets.
//!
//! A socket's end is told by sockops, and another program there may switch that off: callback flags are one word for all
//! programs, and some set it without keeping what is there. What leaks like that names nobody, as cookies are not used again,
//! but it would fill the map. So the map is compared with the kernel's sockets.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use agent_common::{Counter, names::map};
use anyhow::Result;
use tokio::{task::spawn_blocking, time::sleep};
use tracing::{info, warn};

use super::{
    claims::Learnt,
    maps::{Plain, removed},
    pins::Pins,
};
use crate::host::{netns::Netns, sockets};

/// The shortest pause between two looks.
const PAUSE: Duration = Duration::from_secs(2);
/// How much longer than the look itself the pause is: it takes a hundredth of a processor, or a tenth while the map fills.
const EASY: u32 = 100;
const BUSY: u32 = 10;

impl Pins {
    /// Removes origins whose sockets are gone, again and again.
    pub async fn sweep_origins(self) -> Result<()> {
        let mut suspects = HashSet::new();
        let mut problem = None;
        let mut pause = PAUSE;
        loop {
            sleep(pause).await;
            let (pins, before) = (self.clone(), std::mem::take(&mut suspects));
            let began = Instant::now();
            let swept = spawn_blocking(move || sweep(&pins, &before)).await?;
            let Swept {
                suspects: now,
                fills,
            } = swept.unwrap_or_else(|error| {
                let text = format!("{error:#}");
                if problem.as_ref() != Some(&text) {
                    warn!("cannot compare the origins with the kernel's sockets: {text}");
                }
                problem = Some(text);
                Swept::default()
            });
            suspects = now;
            let factor = if fills { BUSY } else { EASY };
            pause = PAUSE.max(began.elapsed() * factor);
        }
    }
}

/// What a look has found.
#[derive(Default)]
struct Swept {
    /// Cookies of sockets that were not found, to be looked for once more.
    suspects: HashSet<u64>,
    /// Whether the map is nearly full.
    fills: bool,
}

/// Removes the origins of `suspects`, whose sockets were not found the last time, if they are not found again: the kernel's
/// list may leave a socket out that changes its state meanwhile. Origins in namespaces that cannot be seen stay.
fn sweep(pins: &Pins, suspects: &HashSet<u64>) -> Result<Swept> {
    let mut origins = Learnt::open(pins)?;
    let mut by_netns: HashMap<u64, HashSet<u64>> = HashMap::new();
    let mut entries = 0;
    // Before the sockets are looked for, so that each of them was there before.
    for entry in origins.map.iter() {
        let (cookie, Plain(origin)) = entry?;
        by_netns.entry(origin.netns).or_default().insert(cookie);
        entries += 1;
    }
    let mut swept = Swept {
        fills: entries > pins.capacity(map::ORIGINS)? / 8 * 7,
        ..Swept::default()
    };
    if by_netns.is_empty() {
        return Ok(swept);
    }
    let mut removals = 0;
    for netns in Netns::all()? {
        let Some(mut cookies) = by_netns.remove(&netns.cookie()) else {
            continue;
        };
        for socket in sockets::connections(&netns)? {
            cookies.remove(&socket.cookie);
        }
        for cookie in cookies {
            if !suspects.contains(&cookie) {
                swept.suspects.insert(cookie);
            } else if removed(origins.map.remove(&cookie))? {
                origins.count(Counter::Swept)?;
                removals += 1;
            }
        }
    }
    if removals > 0 {
        info!("removed {removals} origins whose sockets have gone without a word");
    }
    Ok(swept)
}
