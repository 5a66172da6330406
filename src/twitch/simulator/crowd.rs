//! Who is there: channels and viewers, some of whom are heard far more often than others.

use rand::{Rng, RngExt};

/// Ids of generated viewers start here, far from those of generated channels.
const FIRST_VIEWER_ID: u64 = 100_000_000_000;
const FIRST_NAMES: [&str; 12] = [
    "Quiet", "Salty", "Lucky", "Cosmic", "Sleepy", "Turbo", "Pixel", "Grumpy", "Mighty", "Tiny", "Neon",
    "Rusty",
];
const LAST_NAMES: [&str; 12] = [
    "Otter", "Goblin", "Panda", "Falcon", "Wizard", "Noodle", "Badger", "Comet", "Pirate", "Toast", "Lynx",
    "Cactus",
];

/// An account as Twitch's payloads name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Person {
    pub id: String,
    pub login: String,
    pub name: String,
}

/// A number in `0..count`, small ones far more often: k comes about as often as 1/(k+1), as Zipf's law
/// has it for the activity of people in a crowd. `count` must be at least 1.
pub(super) fn zipf_rank(rng: &mut impl Rng, count: u64) -> u64 {
    // ((n+1)^u, u uniform) has the density 1/(x·ln(n+1)) on 1..n+1: the inverse of its distribution.
    let x = ((count + 1) as f64).powf(rng.random::<f64>());
    (x as u64).clamp(1, count) - 1
}

/// The channel with this number; real ids come first.
pub(super) fn channel(number: u64, real_ids: &[String], first_id: u64) -> Person {
    let real = usize::try_from(number).ok().and_then(|index| real_ids.get(index));
    let id = real.cloned().unwrap_or_else(|| first_id.wrapping_add(number).to_string());
    Person { login: format!("streamer{id}"), name: format!("Streamer{id}"), id }
}

/// The viewer with this number in the channel with that number.
pub(super) fn viewer(channel: u64, number: u64, viewers: u64) -> Person {
    let serial = channel.wrapping_mul(viewers).wrapping_add(number);
    let first = FIRST_NAMES[(serial % FIRST_NAMES.len() as u64) as usize];
    let last = LAST_NAMES[(serial / FIRST_NAMES.len() as u64 % LAST_NAMES.len() as u64) as usize];
    let name = format!("{first}{last}{serial}");
    Person { id: FIRST_VIEWER_ID.wrapping_add(serial).to_string(), login: name.to_ascii_lowercase(), name }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{SeedableRng, rngs::StdRng};

    #[test]
    fn ranks_stay_in_range_and_favour_the_first() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut seen = [0_u32; 10];
        for _ in 0..10_000 {
            seen[zipf_rank(&mut rng, 10) as usize] += 1;
        }
        assert!(seen.iter().all(|&count| count > 0), "{seen:?}");
        assert!(seen[0] > 2 * seen[2] && seen[2] > seen[9], "{seen:?}");
        assert!((0..100).all(|_| zipf_rank(&mut rng, 1) == 0));
    }

    #[test]
    fn real_channels_come_before_generated_ones() {
        let real = ["1337".to_owned()];
        assert_eq!(channel(0, &real, 500).id, "1337");
        assert_eq!(channel(1, &real, 500).id, "501");
        assert_eq!(channel(0, &[], 500).id, "500");
    }

    #[test]
    fn viewers_of_different_channels_are_different_people() {
        assert_ne!(viewer(0, 3, 10), viewer(1, 3, 10));
        assert_eq!(viewer(1, 3, 10), viewer(1, 3, 10));
    }
}
