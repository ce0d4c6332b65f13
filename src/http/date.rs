//! Dates as text: the `Date` field (RFC 9110 5.6.7) and the time of an access log line (Common Log Format).
//!
//! This module formats dates of the proleptic Gregorian calendar, without leap seconds (as POSIX time has none). The
//! caller has the clock and the offset of local time. Years after 9999 do not fit the formats: the last second of 9999
//! stands for them.

use std::fmt::Write;

/// 9999-12-31 23:59:59 UTC, the last second with a four-digit year.
const LAST_SECOND: u64 = 253_402_300_799;
const SECONDS_PER_DAY: u64 = 86_400;

const WEEKDAYS: [&[u8; 3]; 7] = [b"Thu", b"Fri", b"Sat", b"Sun", b"Mon", b"Tue", b"Wed"];
const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// The IMF-fixdate of a moment, as the `Date` field wants it: `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110 5.6.7).
///
/// `unix_seconds` counts from 1970-01-01 00:00:00 UTC.
pub fn imf_fixdate(unix_seconds: u64) -> [u8; 29] {
    let moment = Moment::of(unix_seconds);
    let mut text = *b"Thu, 01 Jan 1970 00:00:00 GMT";
    text[..3].copy_from_slice(WEEKDAYS[moment.weekday]);
    put_two_digits(&mut text, 5, moment.day);
    text[8..11].copy_from_slice(MONTHS[moment.month].as_bytes());
    put_two_digits(&mut text, 12, moment.year / 100);
    put_two_digits(&mut text, 14, moment.year % 100);
    put_two_digits(&mut text, 17, moment.hour);
    put_two_digits(&mut text, 20, moment.minute);
    put_two_digits(&mut text, 23, moment.second);
    text
}

/// The time of a Common Log Format line, without its brackets: `23/Nov/2026:08:43:00 +0000`.
///
/// `utc_offset_seconds` is how far local time is ahead of UTC. The date is shown in local time. The format knows only
/// whole minutes of offset.
pub fn common_log_date(unix_seconds: u64, utc_offset_seconds: i32) -> String {
    let moment = Moment::of(unix_seconds.saturating_add_signed(i64::from(utc_offset_seconds)));
    let sign = if utc_offset_seconds < 0 { '-' } else { '+' };
    let offset_minutes = utc_offset_seconds.unsigned_abs() / 60;
    let mut text = String::with_capacity(26);
    // Writing to a String cannot fail.
    let _ = write!(
        text,
        "{:02}/{}/{:04}:{:02}:{:02}:{:02} {sign}{:02}{:02}",
        moment.day,
        MONTHS[moment.month],
        moment.year,
        moment.hour,
        moment.minute,
        moment.second,
        offset_minutes / 60 % 100,
        offset_minutes % 60,
    );
    text
}

/// Date and time of RFC 3339 in UTC, up to the second and without the zone: `2026-11-23T08:43:00`.
pub fn rfc3339_seconds(unix_seconds: u64) -> String {
    let Moment { year, month, day, hour, minute, second, .. } = Moment::of(unix_seconds);
    format!("{year:04}-{:02}-{day:02}T{hour:02}:{minute:02}:{second:02}", month + 1)
}

/// The time of day: `08:43:00`. For `utc_offset_seconds` see [`common_log_date`].
pub fn time_of_day(unix_seconds: u64, utc_offset_seconds: i32) -> String {
    let moment = Moment::of(unix_seconds.saturating_add_signed(i64::from(utc_offset_seconds)));
    format!("{:02}:{:02}:{:02}", moment.hour, moment.minute, moment.second)
}

/// The time of a line in the error log, as Gunicorn writes it: `2026-11-23 08:43:00 +0000`.
///
/// `utc_offset_seconds` is how far local time is ahead of UTC. The date is shown in local time.
pub fn log_date(unix_seconds: u64, utc_offset_seconds: i32) -> String {
    let moment = Moment::of(unix_seconds.saturating_add_signed(i64::from(utc_offset_seconds)));
    let sign = if utc_offset_seconds < 0 { '-' } else { '+' };
    let offset_minutes = utc_offset_seconds.unsigned_abs() / 60;
    format!(
        "{:04}-{:02}-{:02} {:02}:{:02}:{:02} {sign}{:02}{:02}",
        moment.year,
        moment.month + 1,
        moment.day,
        moment.hour,
        moment.minute,
        moment.second,
        offset_minutes / 60 % 100,
        offset_minutes % 60,
    )
}

/// A moment of the calendar. `weekday` and `month` are indices of the tables above.
struct Moment {
    year: u64,
    month: usize,
    day: u64,
    weekday: usize,
    hour: u64,
    minute: u64,
    second: u64,
}

impl Moment {
    /// Turns days into a date by the method of H. Hinnant, "chrono-Compatible Low-Level Date Algorithms",
    /// `civil_from_days`: years start in March, so the leap day is the last day of its year.
    fn of(unix_seconds: u64) -> Self {
        let unix_seconds = unix_seconds.min(LAST_SECOND);
        let days = unix_seconds / SECONDS_PER_DAY;
        let second_of_day = unix_seconds % SECONDS_PER_DAY;

        let days_since_march_0000 = days + 719_468;
        let era = days_since_march_0000 / 146_097;
        let day_of_era = days_since_march_0000 % 146_097;
        let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_since_march = (5 * day_of_year + 2) / 153;
        let is_next_year = month_since_march >= 10;
        Self {
            year: era * 400 + year_of_era + u64::from(is_next_year),
            month: (month_since_march as usize + 2) % 12,
            day: day_of_year - (153 * month_since_march + 2) / 5 + 1,
            weekday: (days % 7) as usize,
            hour: second_of_day / 3_600,
            minute: second_of_day / 60 % 60,
            second: second_of_day % 60,
        }
    }
}

fn put_two_digits(text: &mut [u8; 29], at: usize, number: u64) {
    text[at] = b'0' + (number / 10 % 10) as u8;
    text[at + 1] = b'0' + (number % 10) as u8;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixdate(unix_seconds: u64) -> String {
        String::from_utf8_lossy(&imf_fixdate(unix_seconds)).into_owned()
    }

    #[test]
    fn other_forms_show_the_same_moment() {
        assert_eq!(rfc3339_seconds(1_795_423_380), "2026-11-23T08:43:00");
        assert_eq!(rfc3339_seconds(951_782_400), "2000-02-29T00:00:00");
        assert_eq!(time_of_day(1_795_423_380, 0), "08:43:00");
        assert_eq!(time_of_day(1_795_423_380, -34_200), "23:13:00");
    }

    #[test]
    fn known_moments_have_their_imf_fixdate() {
        for (unix_seconds, text) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"), // the example of RFC 9110
            (951_782_399, "Mon, 28 Feb 2000 23:59:59 GMT"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (951_868_800, "Wed, 01 Mar 2000 00:00:00 GMT"),
            (1_709_164_800, "Thu, 29 Feb 2024 00:00:00 GMT"),
            (1_795_423_380, "Mon, 23 Nov 2026 08:43:00 GMT"),
            (2_147_483_648, "Tue, 19 Jan 2038 03:14:08 GMT"),
            (4_107_542_400, "Mon, 01 Mar 2100 00:00:00 GMT"), // 2100 has no leap day
            (LAST_SECOND, "Fri, 31 Dec 9999 23:59:59 GMT"),
            (u64::MAX, "Fri, 31 Dec 9999 23:59:59 GMT"),
        ] {
            assert_eq!(fixdate(unix_seconds), text);
        }
    }

    #[test]
    fn the_date_of_the_error_log_is_local_time_with_its_offset() {
        assert_eq!(log_date(1_795_423_380, 0), "2026-11-23 08:43:00 +0000");
        assert_eq!(log_date(1_795_423_380, -12_600), "2026-11-23 05:13:00 -0330");
        assert_eq!(log_date(u64::MAX, 3_600), "9999-12-31 23:59:59 +0100");
    }

    // A calendar that only counts is an independent witness over 500 years.
    #[test]
    fn every_day_until_2470_follows_the_day_before() {
        let (mut year, mut month, mut day) = (1970u64, 0usize, 1u64);
        for days in 0..182_621u64 {
            let moment = Moment::of(days * SECONDS_PER_DAY + days % SECONDS_PER_DAY);
            assert_eq!((moment.year, moment.month, moment.day), (year, month, day));
            assert_eq!(moment.weekday as u64, days % 7);
            let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let lengths = [31, 28 + u64::from(is_leap), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
            day += 1;
            if day > lengths[month] {
                (month, day) = (month + 1, 1);
            }
            if month == 12 {
                (year, month) = (year + 1, 0);
            }
        }
        assert!(year >= 2469);
    }

    #[test]
    fn log_dates_are_in_local_time() {
        for (unix_seconds, offset, text) in [
            (1_795_423_380, 0, "23/Nov/2026:08:43:00 +0000"),
            (1_795_423_380, 7_200, "23/Nov/2026:10:43:00 +0200"),
            (1_795_423_380, 19_800, "23/Nov/2026:14:13:00 +0530"),
            (1_795_423_380, -34_200, "22/Nov/2026:23:13:00 -0930"),
            (0, -3_600, "01/Jan/1970:00:00:00 -0100"), // before the epoch there is nothing to show
            (u64::MAX, i32::MAX, "31/Dec/9999:23:59:59 +2314"),
        ] {
            assert_eq!(common_log_date(unix_seconds, offset), text);
        }
    }
}
