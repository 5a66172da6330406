//! Times in words, in UTC.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::domain::time::Millis;

/// A point in time as machines read it (RFC 3339); empty for one beyond the calendar.
pub fn machine(at: Millis) -> String {
    moment(at).and_then(|at| at.format(&Rfc3339).ok()).unwrap_or_default()
}

/// A point in time as people read it, with the day if that is not the one of `now`.
pub fn clock(at: Millis, now: Millis) -> String {
    let Some(then) = moment(at) else { return "a time that is not known".to_owned() };
    let clock = format!("{:02}:{:02} UTC", then.hour(), then.minute());
    if moment(now).is_some_and(|now| now.date() == then.date()) {
        clock
    } else {
        format!("{clock} on {} {}", then.day(), then.month())
    }
}

/// The time of the day to the second.
pub fn second(at: Millis) -> String {
    let then = moment(at).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    format!("{:02}:{:02}:{:02}", then.hour(), then.minute(), then.second())
}

/// How long ago something was.
pub fn ago(at: Millis, now: Millis) -> String {
    // Never negative.
    match now.seconds_since(at) as u64 {
        seconds @ 0..60 => format!("{seconds} s ago"),
        seconds => format!("{} ago", age(seconds)),
    }
}

/// How long something has been going on.
pub fn age(seconds: u64) -> String {
    let many = |count: u64, unit: &str| format!("{count} {unit}{}", if count == 1 { "" } else { "s" });
    match seconds {
        0..60 => "less than a minute".to_owned(),
        60..3_600 => many(seconds / 60, "minute"),
        _ => {
            let (hours, minutes) = (seconds / 3_600, seconds % 3_600 / 60);
            format!("{} {}", many(hours, "hour"), many(minutes, "minute"))
        }
    }
}

fn moment(at: Millis) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp(at.second()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000;

    #[test]
    fn a_time_of_another_day_has_its_day() {
        let noon = Millis(12 * HOUR + 3 * 60_000);
        assert_eq!(clock(noon, Millis(23 * HOUR)), "12:03 UTC");
        assert_eq!(clock(noon, Millis(24 * HOUR)), "12:03 UTC on 1 January");
        assert_eq!(second(Millis(12 * HOUR + 7_999)), "12:00:07");
        assert_eq!(machine(Millis(HOUR)), "1970-01-01T01:00:00Z");
    }

    #[test]
    fn a_time_beyond_the_calendar_is_no_panic() {
        for at in [i64::MIN, i64::MAX] {
            assert_eq!(machine(Millis(at)), "");
            assert!(clock(Millis(at), Millis(0)).contains("not known"));
            assert_eq!(second(Millis(at)), "00:00:00");
            assert!(ago(Millis(at), Millis(0)).ends_with("ago"));
        }
    }

    #[test]
    fn ages_are_told_in_words() {
        for (seconds, words) in [(0, "less than a minute"), (60, "1 minute"), (3_599, "59 minutes")] {
            assert_eq!(age(seconds), words);
        }
        assert_eq!(age(7_260), "2 hours 1 minute");
        assert_eq!(ago(Millis(0), Millis(12_900)), "12 s ago");
        assert_eq!(ago(Millis(0), Millis(2 * HOUR + 60_000)), "2 hours 1 minute ago");
        assert_eq!(ago(Millis(5), Millis(0)), "0 s ago");
    }
}
