//! The common bucket of a key in Redis: one script, so that a lease is one step, by the clock of Redis, so that nobody
//! else's counts. Its key ends by itself when the bucket is full.

use ::redis::{Cmd, Value, cmd};

use super::key::{Answer, Asked, Rules};

/// `ARGV`: microseconds in which a request comes back, requests of a full bucket, debt, back, want, the most that can be
/// missing. The bucket keeps how many requests are missing in it, and since when that is so. A debt may take it below
/// empty, a lease may not. A debt whose answer was lost is told again: beyond what all replicas together can owe it is
/// certainly told twice, and not believed.
/// Answers how many are leased, and in how many microseconds the bucket is full.
const SCRIPT: &str = "\
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local interval, amount = tonumber(ARGV[1]), tonumber(ARGV[2])
local debt, back, want, most = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local kept = redis.call('HMGET', KEYS[1], 'used', 'at')
local used = 0
if kept[1] and kept[2] then
  used = math.max(0, tonumber(kept[1]) - math.max(0, now - tonumber(kept[2])) / interval)
end
used = math.min(math.max(0, used - back) + debt, most)
local granted = math.max(0, math.min(want, math.floor(amount - used)))
used = used + granted
local full_in = math.ceil(used * interval)
if full_in <= 0 then
  redis.call('DEL', KEYS[1])
else
  redis.call('HSET', KEYS[1], 'used', string.format('%.17g', used), 'at', string.format('%.0f', now))
  redis.call('PEXPIRE', KEYS[1], string.format('%.0f', math.ceil(full_in / 1000)))
end
return {granted, full_in}
";

/// Tells and asks. The text goes along every time: a Redis that was restarted or failed over does not know it.
pub(super) fn command(key: &str, rules: Rules, asked: Asked) -> Cmd {
    let mut eval = cmd("EVAL");
    eval.arg(SCRIPT).arg(1).arg(key);
    // Whole nanoseconds: the quotient is exact to the last digit that the script can use.
    #[expect(clippy::cast_precision_loss, reason = "a century in nanoseconds, for a script that counts in doubles")]
    let interval_us = rules.interval as f64 / 1_000.0;
    eval.arg(format!("{interval_us:.3}")).arg(rules.amount).arg(asked.debt).arg(asked.back).arg(asked.want);
    eval.arg(rules.missing_max());
    eval
}

/// What the script answers; nothing for what is no answer of its.
pub(super) fn answer(value: &Value) -> Option<Answer> {
    let Value::Array(parts) = value else { return None };
    let [Value::Int(granted), Value::Int(full_in_us)] = parts.as_slice() else { return None };
    Some(Answer { granted: u32::try_from(*granted).ok()?, full_in: full_in_us.saturating_mul(1_000).max(0) })
}
