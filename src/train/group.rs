//! The processes that train one model together.

use coconut_kernels::host;

use crate::{
    Error, Result,
    model::parameters::{FlatTensor, NamedTensors},
};

/// The processes that share the rows of each optimizer step. Each holds the whole model; what they sum keeps
/// their models equal.
///
/// A step sums at three places: its labels before losses are divided by them, its gradients before their norm is
/// taken, and its figures before they are logged. Sums are taken in the order of ranks, so that every process has the
/// same, and a run that is repeated has them again. What is written to disk is written by the first process alone.
#[derive(Clone, Copy)]
pub struct Group<'a>(Option<&'a dyn Network>);

/// What carries numbers between processes. Where another process cannot be reached the run cannot go on: an
/// implementation then ends the process.
pub trait Network {
    /// Which of the processes do what.
    fn share(&self) -> Share;

    /// The numbers of all processes in the order of ranks; each gives as many.
    fn gather(&self, own: &[f64]) -> Vec<f64>;

    /// Sends the n-th of as many equal chunks of `own` as there are processes to the n-th; `received` has what they
    /// sent, in the order of ranks.
    fn exchange(&self, own: &[f32], received: &mut [f32]);

    /// Fills `all` with the numbers of all processes, in the order of ranks; each gives as many.
    fn collect(&self, own: &[f32], all: &mut [f32]);
}

/// The part of the work that one process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// The number of the process, from 0.
    pub rank: usize,
    /// The number of processes.
    pub world: usize,
}

impl Share {
    /// All of it.
    pub const WHOLE: Self = Self { rank: 0, world: 1 };

    /// This share of a list, in one piece; what does not divide evenly goes to the first processes.
    pub fn of<T>(self, all: &[T]) -> &[T] {
        let Self { rank, world } = self;
        let (each, more) = (all.len() / world, all.len() % world);
        let start = rank * each + rank.min(more);
        &all[start..start + each + usize::from(rank < more)]
    }
}

/// Elements that are sent at once, if no single parameter has more: 16 MB.
const BUCKET: usize = 1 << 22;

impl<'a> Group<'a> {
    /// One process that does everything itself.
    pub fn alone() -> Self {
        Self(None)
    }

    /// Processes that reach one another.
    pub fn over(network: &'a dyn Network) -> Self {
        Self((network.share().world > 1).then_some(network))
    }

    /// The part of the work that this process does.
    pub fn share(self) -> Share {
        self.0.map_or(Share::WHOLE, Network::share)
    }

    /// Whether this process is the one that evaluates and writes.
    pub fn leads(self) -> bool {
        self.share().rank == 0
    }

    /// The sums of numbers over all processes.
    pub fn sums<const N: usize>(self, own: [f64; N]) -> [f64; N] {
        let mut sums = own;
        self.sum_all(&mut sums);
        sums
    }

    /// Replaces numbers by their sums over all processes.
    pub fn sum_all(self, own: &mut [f64]) {
        let Some(network) = self.0 else { return };
        let all = network.gather(own);
        let n = own.len();
        for (at, sum) in own.iter_mut().enumerate() {
            *sum = all.iter().skip(at).step_by(n.max(1)).sum();
        }
    }

    /// Whether something holds in any process.
    pub fn any(self, own: bool) -> bool {
        self.sums([number(own)]) != [0.0]
    }

    /// What the first process finds; the others wait for it.
    ///
    /// # Errors
    /// The first process's; in the others, that it did not go on.
    pub fn lead(self, find: impl FnOnce() -> Result<f64>) -> Result<f64> {
        let Some(network) = self.0 else { return find() };
        let found = if self.leads() { find() } else { Ok(0.0) };
        match told(network, found.as_ref().ok().copied()) {
            Some(found) => Ok(found),
            None => found.and(Err(first_stopped())),
        }
    }

    /// As [`Group::lead`], of what is so or not.
    ///
    /// # Errors
    /// As [`Group::lead`].
    pub fn decide(self, find: impl FnOnce() -> Result<bool>) -> Result<bool> {
        Ok(self.lead(|| find().map(number))? != 0.0)
    }

    /// What this process found, unless the first one found none.
    ///
    /// # Errors
    /// The process's own; where the first one has an error, that it did not go on.
    pub fn heed<T>(self, own: Result<T>) -> Result<T> {
        let Some(network) = self.0 else { return own };
        match told(network, own.is_ok().then_some(0.0)) {
            None if !self.leads() => Err(first_stopped()),
            _ => own,
        }
    }

    /// The lists of all processes as one.
    pub fn concat(self, own: Vec<usize>) -> Vec<usize> {
        let Some(network) = self.0 else { return own };
        let lengths = network.gather(&[own.len() as f64]);
        let most = lengths.iter().copied().fold(0.0, f64::max) as usize;
        let mut padded: Vec<f64> = own.into_iter().map(|x| x as f64).collect();
        padded.resize(most, 0.0);
        let all = network.gather(&padded);
        let lists = all.chunks(most.max(1)).zip(lengths);
        lists.flat_map(|(list, n)| list.iter().take(n as usize).map(|&x| x as usize)).collect()
    }

    /// What every process finds, the first one before the others: where it fails they do not try.
    ///
    /// # Errors
    /// As [`Group::lead`], and the process's own.
    pub fn first<T>(self, find: impl Fn() -> Result<T>) -> Result<T> {
        let mut found = None;
        self.lead(|| {
            found = Some(find()?);
            Ok(0.0)
        })?;
        found.map_or_else(find, Ok)
    }

    /// Refuses to go on where processes differ in one of some things, each named and told as a number. One process alone
    /// works none of them out.
    ///
    /// # Errors
    /// [`Error::Usage`] in the first process, [`Error::Interrupted`] in the others.
    pub fn agree<'t, const N: usize>(
        self,
        things: impl FnOnce() -> Result<[(&'t str, u64); N]>,
    ) -> Result<()> {
        let Some(network) = self.0 else { return Ok(()) };
        let things = things()?;
        // Halves, which an f64 holds exactly.
        let halves = |(_, number): (&str, u64)| [number >> 32, number & 0xffff_ffff];
        let own: Vec<f64> = things.into_iter().flat_map(halves).map(|half| half as f64).collect();
        let all = network.gather(&own);
        for (at, (what, _)) in things.into_iter().enumerate() {
            let of = |process: &[f64]| [process[2 * at], process[2 * at + 1]];
            let mut processes = all.chunks(own.len()).map(of);
            let first = processes.next();
            if let Some(other) = processes.position(|process| Some(process) != first) {
                let problem = format!(
                    "process {} of {} has {what} other than process 0. Start all processes with the same command, where they see the same files.",
                    other + 1,
                    self.share().world
                );
                return Err(match self.leads() {
                    true => Error::Usage(problem),
                    false => Error::Interrupted(problem),
                });
            }
        }
        Ok(())
    }

    /// The sum of the gradients of all processes; `None` where none has any. `parameters` are those of the model,
    /// which has them in the same order everywhere.
    pub fn sum_gradients(
        self,
        own: Option<NamedTensors>,
        parameters: impl FnOnce() -> NamedTensors,
    ) -> Option<NamedTensors> {
        let Some(network) = self.0 else { return own };
        let (mut own, parameters) = (own.unwrap_or_default(), parameters());
        let mut holders: Vec<f64> =
            parameters.keys().map(|name| number(own.contains_key(name))).collect();
        self.sum_all(&mut holders);
        let of_any = parameters.into_iter().zip(holders);
        let of_any = of_any.filter(|&(_, holders)| holders > 0.0).map(|(parameter, _)| parameter);
        let mut sums = NamedTensors::new();
        let mut bucket = Vec::new();
        let mut size = 0;
        for (name, like) in of_any {
            let elements = like.values.shape().num_elements();
            if size + elements > BUCKET && size > 0 {
                sums.extend(sum_bucket(network, std::mem::take(&mut bucket), size));
                size = 0;
            }
            size += elements;
            bucket.push(Item { gradient: own.remove(&name), name, like });
        }
        sums.extend(sum_bucket(network, bucket, size));
        (!sums.is_empty()).then_some(sums)
    }
}

fn number(is_so: bool) -> f64 {
    f64::from(u8::from(is_so))
}

/// What the first process says, if it has something to say.
fn told(network: &dyn Network, own: Option<f64>) -> Option<f64> {
    // A number, and whether it is one.
    let own = own.map_or([0.0, 0.0], |found| [found, 1.0]);
    match network.gather(&own)[..] {
        [found, 1.0, ..] => Some(found),
        _ => None,
    }
}

fn first_stopped() -> Error {
    Error::Interrupted("The process of rank 0 stopped, which says why.".into())
}

/// A parameter, and this process's gradient of it.
struct Item {
    name: String,
    like: FlatTensor,
    gradient: Option<FlatTensor>,
}

/// The sums of some gradients over all processes. Each process sums a chunk in the order of ranks and tells the others:
/// 2 (n − 1) / n of the bucket's bytes go out of each of n processes, as in a ring, and the order of additions is the
/// same wherever a chunk is summed.
fn sum_bucket(network: &dyn Network, bucket: Vec<Item>, size: usize) -> NamedTensors {
    let world = network.share().world;
    let chunk = size.div_ceil(world);
    let mut flat: Vec<f32> = Vec::with_capacity(chunk * world);
    for Item { like, gradient, .. } in &bucket {
        match gradient {
            Some(gradient) => flat.extend(host::data(gradient.values.clone()).iter::<f32>()),
            None => flat.extend(std::iter::repeat_n(0.0, like.values.shape().num_elements())),
        }
    }
    flat.resize(chunk * world, 0.0);
    let mut received = vec![0.0; chunk * world];
    network.exchange(&flat, &mut received);
    let (sum, others) = received.split_at_mut(chunk);
    for other in others.chunks_exact(chunk.max(1)) {
        sum.iter_mut().zip(other).for_each(|(sum, x)| *sum += x);
    }
    network.collect(sum, &mut flat);
    let mut rest = flat.as_slice();
    let summed = bucket.into_iter().map(|Item { name, like, .. }| {
        let values;
        (values, rest) = rest.split_at(like.values.shape().num_elements());
        let values = host::upload(values, &like.values.device());
        (name, FlatTensor { shape: like.shape, values })
    });
    summed.collect()
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::{Barrier, Mutex};

    use burn::tensor::Device;

    use super::*;

    /// Processes that are threads of the test.
    struct Threads {
        barrier: Barrier,
        numbers: Mutex<Vec<Vec<f64>>>,
        floats: Mutex<Vec<Vec<f32>>>,
    }

    struct Member<'a> {
        share: Share,
        threads: &'a Threads,
    }

    impl Member<'_> {
        /// Puts something down, and reads what all have put down.
        fn meet<T: Clone, R>(
            &self,
            place: &Mutex<Vec<Vec<T>>>,
            own: &[T],
            read: impl FnOnce(&[Vec<T>]) -> R,
        ) -> R {
            place.lock().unwrap()[self.share.rank] = own.to_vec();
            self.threads.barrier.wait();
            let found = read(&place.lock().unwrap());
            self.threads.barrier.wait();
            found
        }
    }

    impl Network for Member<'_> {
        fn share(&self) -> Share {
            self.share
        }

        fn gather(&self, own: &[f64]) -> Vec<f64> {
            self.meet(&self.threads.numbers, own, <[_]>::concat)
        }

        fn exchange(&self, own: &[f32], received: &mut [f32]) {
            let chunk = own.len() / self.share.world;
            let start = chunk * self.share.rank;
            self.meet(&self.threads.floats, own, |all| {
                let to_me: Vec<&[f32]> = all.iter().map(|of| &of[start..start + chunk]).collect();
                received.copy_from_slice(&to_me.concat());
            });
        }

        fn collect(&self, own: &[f32], all: &mut [f32]) {
            self.meet(&self.threads.floats, own, |of_all| all.copy_from_slice(&of_all.concat()));
        }
    }

    /// What each of `world` processes makes of its group.
    pub fn in_group<T: Send>(world: usize, work: impl Fn(Group) -> T + Sync) -> Vec<T> {
        let threads = Threads {
            barrier: Barrier::new(world),
            numbers: Mutex::new(vec![Vec::new(); world]),
            floats: Mutex::new(vec![Vec::new(); world]),
        };
        std::thread::scope(|scope| {
            let started: Vec<_> = (0..world)
                .map(|rank| {
                    let (threads, work) = (&threads, &work);
                    scope.spawn(move || {
                        work(Group::over(&Member { share: Share { rank, world }, threads }))
                    })
                })
                .collect();
            started.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    #[test]
    fn shares_are_a_list_in_order() {
        for (n, world, sizes) in [(7, 3, [3, 2, 2]), (2, 3, [1, 1, 0]), (0, 3, [0, 0, 0])] {
            let list: Vec<usize> = (0..n).collect();
            let shares = (0..world).map(|rank| Share { rank, world }.of(&list));
            let shares: Vec<&[usize]> = shares.collect();
            assert_eq!(shares.iter().map(|share| share.len()).collect::<Vec<_>>(), sizes);
            assert_eq!(shares.concat(), list);
        }
    }

    fn tensors(of: &[(&str, &[f32])]) -> NamedTensors {
        let flat = |values: &[f32]| FlatTensor {
            shape: vec![values.len()],
            values: host::upload(values, &Device::flex()),
        };
        of.iter().map(|&(name, values)| (name.to_owned(), flat(values))).collect()
    }

    #[test]
    fn gradients_of_some_are_summed_for_all() {
        let parameters =
            || tensors(&[("a", &[0.0; 5]), ("b", &[0.0; 2]), ("c", &[0.0]), ("d", &[0.0; 3])]);
        let found = in_group(3, |group| {
            let own = match group.share().rank {
                0 => Some(tensors(&[("a", &[1.0, 2.0, 3.0, 4.0, 5.0])])),
                1 => None,
                _ => Some(tensors(&[("a", &[0.5; 5]), ("d", &[7.0, 8.0, 9.0])])),
            };
            let sums = group.sum_gradients(own, parameters).unwrap();
            let values = |flat: FlatTensor| host::data(flat.values).iter().collect::<Vec<f32>>();
            sums.into_iter().map(|(name, flat)| (name, values(flat))).collect::<Vec<_>>()
        });
        let expected = vec![
            ("a".to_owned(), vec![1.5, 2.5, 3.5, 4.5, 5.5]),
            ("d".to_owned(), vec![7.0, 8.0, 9.0]),
        ];
        assert_eq!(found, vec![expected; 3]);
        let none = in_group(2, |group| group.sum_gradients(None, parameters).is_none());
        assert_eq!(none, [true, true]);
    }

    #[test]
    fn what_the_first_process_finds_holds_for_all() {
        let found = in_group(3, |group| group.lead(|| Ok(f64::from(7u8))).unwrap());
        assert_eq!(found, [7.0; 3]);
        let failed = in_group(2, |group| {
            let found = group.lead(|| Err(Error::Run("no disk".into())));
            found.unwrap_err().to_string()
        });
        assert_eq!(failed[0], "no disk");
        assert!(failed[1].contains("rank 0"), "{failed:?}");
        let heeded = in_group(2, |group| {
            let own = match group.share().rank {
                0 => Err(Error::Run("no file".into())),
                _ => Ok(3),
            };
            group.heed(own).unwrap_err().to_string()
        });
        assert_eq!(heeded[0], "no file");
        assert!(heeded[1].contains("rank 0"), "{heeded:?}");
        let lists = in_group(3, |group| group.concat((0..group.share().rank).collect()));
        assert_eq!(lists, vec![vec![0, 0, 1]; 3]);
        let decided = in_group(2, |group| group.decide(|| Ok(group.leads())).unwrap());
        assert_eq!(decided, [true, true]);
        let any = in_group(2, |group| group.any(group.share().rank == 1));
        assert_eq!(any, [true, true]);
    }

    #[test]
    fn processes_that_differ_are_told_in_what() {
        let same =
            in_group(2, |group| group.agree(|| Ok([("a recipe", u64::MAX), ("data", 3)])).is_ok());
        assert_eq!(same, [true, true]);
        let told = in_group(3, |group| {
            let data = u64::MAX - u64::from(group.share().rank == 2);
            group.agree(|| Ok([("a recipe", 1), ("data", data)])).unwrap_err().to_string()
        });
        assert!(told.iter().all(|told| told.contains("process 2 of 3 has data other")), "{told:?}");
    }
}
