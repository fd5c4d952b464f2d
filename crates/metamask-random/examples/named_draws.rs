//! Numbers with names: drawn in any order, on any thread, they are the same.
//!
//! `cargo run --release -p metamask-random --example named_draws`

use std::thread;

use metamask_random::{Key, Purpose};

fn main() {
    let key = Key::new(7, Purpose::Augmentation).epoch(3);
    let brightness = move |sample: u32| key.sample(sample).stream().uniform_in(0.6, 1.4);

    let forwards: Vec<f32> = (0..4).map(brightness).collect();
    let mut backwards: Vec<f32> = (0..4)
        .rev()
        .map(|sample| thread::spawn(move || brightness(sample)).join().expect("no panic"))
        .collect();
    backwards.reverse();

    println!("brightness of samples 0 to 3 in epoch 3: {forwards:?}");
    assert_eq!(forwards, backwards);
    println!("the same from four threads, the last sample first");
}
