//! Damaged checkpoints: every flipped bit is found.

use std::fs;

use metamask_random::{Key, Purpose};

use crate::injuries::{tried, tries_all};

use super::micro_run;
use crate::support::{Metamask, sorted_names};

#[test]
fn every_flipped_bit_of_a_checkpoint_is_found() {
    let Some(metamask) = Metamask::in_memory() else { return };
    metamask.succeed(&micro_run(&metamask, "run"));
    let folder = metamask.path("run/checkpoints/step-0000004");
    let files: Vec<(String, Vec<u8>)> = sorted_names(&folder)
        .into_iter()
        .map(|name| (name.clone(), fs::read(folder.join(name)).expect("a file")))
        .collect();
    let n_bits: usize = files.iter().map(|(_, bytes)| 8 * bytes.len()).sum();
    let n = if tries_all() { 1000 } else { 60 };
    let mut n_found = 0;
    for i in 0..n {
        let mut bit = Key::new(3, Purpose::Test).sample(i).stream().below(n_bits as u32) as usize;
        let (name, bytes) = files
            .iter()
            .find(|(_, bytes)| match bit < 8 * bytes.len() {
                true => true,
                false => {
                    bit -= 8 * bytes.len();
                    false
                }
            })
            .expect("within the files");
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        fs::write(folder.join(name), flipped).expect("written");
        let finished = metamask.run(&["inspect", "mask", "run", "--json"]);
        fs::write(folder.join(name), bytes).expect("written");
        // Passed over with a word for the one before; or, where the bit claims a newer
        // format, refused.
        let warned = finished.code == Some(0) && finished.stderr.starts_with("warning: ");
        let refused =
            finished.code == Some(65) && finished.stderr.starts_with("error[CKPT-VERSION]");
        assert!(warned || refused, "{name} bit {bit}: {:?} {}", finished.code, finished.stderr);
        n_found += 1;
    }
    tried("random flips of a bit of a checkpoint, each found by the program", n as usize, n_found);
}
