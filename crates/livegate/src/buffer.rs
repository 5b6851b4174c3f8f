//! Byte buffers that a worker lends to its connections.
//!
//! A buffer belongs to one connection while bytes are under way and goes back to its
//! worker's pool the moment it is dropped, so that an idle connection holds none. Pools
//! are per thread: taking and giving back is a push or a pop, without a lock.
//!
//! Large buffers are few: once sixteen are out, callers get a small one
//! instead, so a thousand clients that do not read cannot make the gateway hold a
//! thousand large buffers.

use std::cell::RefCell;

/// Room for nearly every message head (bytes).
pub const HEAD_BYTES: usize = 4 * 1024;
/// Room for a body that trickles or for a head that outgrew [`HEAD_BYTES`] (bytes).
pub const BODY_BYTES: usize = 16 * 1024;
/// Room for what cannot be spliced and comes fast: long chunked bodies, and plain ones when no
/// pipe is to be had.
pub const LARGE_BYTES: usize = 128 * 1024;
/// Large buffers in use at one time in one worker: 2 MiB.
const LARGE_LIVE_MAX: usize = 16;
/// Bytes that a pool keeps of each class when its buffers are not in use.
const POOLED_BYTES_MAX: usize = 512 * 1024;

const CLASSES: [usize; 3] = [HEAD_BYTES, BODY_BYTES, LARGE_BYTES];

#[derive(Default)]
struct Pool {
    free: [Vec<Box<[u8]>>; CLASSES.len()],
    large_live: usize,
}

thread_local! {
    static POOL: RefCell<Pool> = RefCell::default();
}

/// A window of filled bytes (`start..end`) in a block of memory.
#[derive(Debug)]
pub struct Buffer {
    block: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Buffer {
    /// A buffer with room for at least `bytes`, empty. Sizes between the pooled ones, which
    /// only large heads need, are allocated as asked.
    pub fn new(bytes: usize) -> Self {
        let class = match bytes {
            LARGE_BYTES => Some(2),
            _ if bytes <= HEAD_BYTES => Some(0),
            _ if bytes <= BODY_BYTES => Some(1),
            _ => None,
        };
        let block = class.and_then(|class| {
            POOL.with_borrow_mut(|pool| {
                if class == CLASSES.len() - 1 {
                    pool.large_live += 1;
                }
                pool.free[class].pop()
            })
        });
        let size = class.map_or(bytes, |class| CLASSES[class]);
        Self {
            block: block.unwrap_or_else(|| vec![0; size].into_boxed_slice()),
            start: 0,
            end: 0,
        }
    }

    /// A buffer without any room, which holds no memory.
    pub fn none() -> Self {
        Self {
            block: Box::default(),
            start: 0,
            end: 0,
        }
    }

    /// A buffer of [`LARGE_BYTES`], or of [`BODY_BYTES`] when too many large ones are out.
    pub fn large_if_available() -> Self {
        let available = POOL.with_borrow(|pool| pool.large_live < LARGE_LIVE_MAX);
        Self::new(if available { LARGE_BYTES } else { BODY_BYTES })
    }

    /// The bytes that are filled and not yet consumed.
    pub fn filled(&self) -> &[u8] {
        &self.block[self.start..self.end]
    }

    /// Number of bytes filled and not yet consumed.
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// True when nothing is left to consume.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Bytes this buffer can hold in all.
    pub fn capacity(&self) -> usize {
        self.block.len()
    }

    /// Forgets the first `count` filled bytes.
    pub fn consume(&mut self, count: usize) {
        self.start += count;
        debug_assert!(self.start <= self.end, "consumed more than was filled");
        if self.start >= self.end {
            self.start = 0;
            self.end = 0;
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.start = 0;
        self.end = 0;
    }

    /// Keeps only the first `length` filled bytes.
    pub fn truncate(&mut self, length: usize) {
        self.end = self.end.min(self.start + length);
    }

    /// Room behind the filled bytes, after moving them to the front if that is needed
    /// to have any.
    pub fn spare(&mut self) -> &mut [u8] {
        if self.start > 0 && self.end == self.block.len() {
            self.block.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        &mut self.block[self.end..]
    }

    /// True when [`Buffer::spare`] would return no room.
    pub fn is_full(&self) -> bool {
        self.len() == self.block.len()
    }

    /// Marks `count` bytes of [`Buffer::spare`] as filled.
    pub fn fill(&mut self, count: usize) {
        self.end += count;
        debug_assert!(
            self.end <= self.block.len(),
            "filled more than there is room"
        );
    }

    /// Moves to a block with room for `bytes` in all, keeping what is filled.
    pub fn grow(&mut self, bytes: usize) {
        if bytes <= self.block.len() {
            return;
        }
        let mut larger = Self::new(bytes);
        larger.extend(self.filled());
        *self = larger;
    }

    /// Appends `bytes`, growing when there is no room.
    pub fn extend(&mut self, bytes: &[u8]) {
        if self.block.len() - self.end < bytes.len() {
            self.make_room(bytes.len());
        }
        self.block[self.end..self.end + bytes.len()].copy_from_slice(bytes);
        self.end += bytes.len();
    }

    /// Appends the line `name: value` of a message head.
    pub fn extend_field(&mut self, name: &[u8], value: &[u8]) {
        let length = name.len() + value.len() + 4;
        if self.block.len() - self.end < length {
            self.make_room(length);
        }
        let line = &mut self.block[self.end..self.end + length];
        let (name_room, rest) = line.split_at_mut(name.len());
        let (colon, rest) = rest.split_at_mut(2);
        let (value_room, line_end) = rest.split_at_mut(value.len());
        name_room.copy_from_slice(name);
        colon.copy_from_slice(b": ");
        value_room.copy_from_slice(value);
        line_end.copy_from_slice(b"\r\n");
        self.end += length;
    }

    #[cold]
    fn make_room(&mut self, more: usize) {
        self.block.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        let needed = self.end + more;
        if needed > self.block.len() {
            self.grow(needed.max(self.block.len() * 2));
        }
    }

    /// Moves what is filled into the smallest block that holds it, so that bytes which
    /// wait for a slow reader do not pin a large block.
    pub fn shrink(&mut self) {
        let class = CLASSES.iter().find(|&&class| self.len() <= class);
        if let Some(&class) = class
            && class < self.block.len()
        {
            let mut smaller = Self::new(class);
            smaller.extend(self.filled());
            *self = smaller;
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let block = std::mem::take(&mut self.block);
        let Some(class) = CLASSES.iter().position(|&class| class == block.len()) else {
            return;
        };
        // The pool is gone only while its thread ends; then so is the block.
        POOL.try_with(|pool| {
            let mut pool = pool.borrow_mut();
            if class == CLASSES.len() - 1 {
                pool.large_live = pool.large_live.saturating_sub(1);
            }
            if (pool.free[class].len() + 1) * CLASSES[class] <= POOLED_BYTES_MAX {
                pool.free[class].push(block);
            }
        })
        .ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_as_they_went_in() {
        let mut buffer = Buffer::new(10);
        buffer.extend(b"hello ");
        let word = b"world";
        buffer.spare()[..5].copy_from_slice(word);
        buffer.fill(5);
        buffer.consume(6);
        assert_eq!(buffer.filled(), b"world");
    }

    #[test]
    fn growing_keeps_what_is_filled() {
        let mut buffer = Buffer::new(HEAD_BYTES);
        buffer.extend(&[1; HEAD_BYTES]);
        buffer.consume(96);
        buffer.extend(&[2; 100]);
        assert_eq!(buffer.len(), HEAD_BYTES + 4);
        assert!(buffer.filled().starts_with(&[1; 4000]));
        assert!(buffer.filled().ends_with(&[2; 100]));
        buffer.extend(&[3; 3 * LARGE_BYTES]);
        assert!(buffer.filled().ends_with(&[3; 3 * LARGE_BYTES]));
    }

    #[test]
    fn large_buffers_are_few() {
        let out: Vec<Buffer> = (0..LARGE_LIVE_MAX)
            .map(|_| Buffer::large_if_available())
            .collect();
        assert!(out.iter().all(|buffer| buffer.capacity() == LARGE_BYTES));
        assert_eq!(Buffer::large_if_available().capacity(), BODY_BYTES);
        drop(out);
        assert_eq!(Buffer::large_if_available().capacity(), LARGE_BYTES);
    }

    #[test]
    fn shrinking_gives_the_large_block_back() {
        let mut buffer = Buffer::new(LARGE_BYTES);
        buffer.extend(&[7; LARGE_BYTES]);
        buffer.consume(LARGE_BYTES - 10);
        buffer.shrink();
        assert_eq!(
            (buffer.capacity(), buffer.filled()),
            (HEAD_BYTES, &[7; 10][..])
        );
    }
}
