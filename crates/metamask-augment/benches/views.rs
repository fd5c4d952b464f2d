//! SimCLR views of random images of 32 px on one thread, timed.
//!
//! Prints one JSON object with the median and the smallest time of 1,000 views,
//! in ms. xtask/bench/peer_views.py does the same with other libraries.
//!
//! ```text
//! cargo bench -p metamask-augment --bench views
//! ```

use std::time::Instant;

use candle_core::Result;
use metamask_augment::{ImageBatch, simclr, two_views};
use metamask_random::{Key, Purpose};

const SIZE: usize = 32;
/// Two views each.
const IMAGES: usize = 500;
const STEPS: u32 = 21;

fn main() -> Result<()> {
    rayon::ThreadPoolBuilder::new().num_threads(1).build_global().expect("one pool");
    let mut stream = Key::new(0, Purpose::Test).stream();
    let bytes: Vec<u8> = (0..IMAGES * SIZE * SIZE * 3).map(|_| stream.below(256) as u8).collect();
    let images = ImageBatch::new(&bytes, SIZE, SIZE)?;
    let samples: Vec<u32> = (0..IMAGES as u32).collect();
    let recipe = simclr(SIZE);
    let mut times_ms = Vec::new();
    for epoch in 0..STEPS {
        let start = Instant::now();
        two_views(&recipe, images, &samples, 0, epoch)?;
        times_ms.push(start.elapsed().as_secs_f64() * 1e3);
    }
    times_ms.sort_by(f64::total_cmp);
    println!("{{\"median_ms\": {}, \"min_ms\": {}}}", times_ms[times_ms.len() / 2], times_ms[0]);
    Ok(())
}
