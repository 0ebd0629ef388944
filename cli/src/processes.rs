//! The processes that `mpirun` started: how a run joins them and leaves, and how many threads each has.

use std::num::NonZeroUsize;

#[cfg(feature = "mpi")]
use coconut::train::Network;
use coconut::{Error, Result, train::Group};

/// Variables in which a process that several were started with finds their number: of Open MPI, of MPICH and its kin,
/// and of Slurm's `srun`.
const WORLD: [&str; 3] = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"];
/// The same, of those on this machine.
const LOCAL: [&str; 2] = ["OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS"];

/// The first of some variables that holds a number.
fn number_in(names: &[&str]) -> Option<usize> {
    names.iter().find_map(|name| std::env::var(name).ok()?.parse().ok())
}

/// The variable that says that this is one of several processes, if one does.
fn one_of_several() -> Option<&'static str> {
    WORLD.into_iter().find(|name| number_in(&[name]).is_some_and(|world| world > 1))
}

/// Divides this machine's cores among the processes that were started on it, unless RAYON_NUM_THREADS says how many
/// threads each is to have.
pub fn share_cores() {
    let here = number_in(&LOCAL).unwrap_or(1);
    if here < 2 || std::env::var_os("RAYON_NUM_THREADS").is_some() {
        return;
    }
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    // An error says that there is a pool already, which then stays.
    let _ = rayon::ThreadPoolBuilder::new().num_threads((cores / here).max(1)).build_global();
}

/// Refuses to be one of several processes, for a reason.
///
/// # Errors
/// [`Error::Usage`].
pub fn refuse_several(reason: &str) -> Result<()> {
    one_of_several().map_or(Ok(()), |name| Err(several(name, reason)))
}

fn several(name: &str, reason: &str) -> Error {
    Error::Usage(format!("this is one of several processes ({name}), and {reason}."))
}

/// This process among those that train one model.
pub struct Processes {
    #[cfg(feature = "mpi")]
    world: Option<over_mpi::World>,
}

#[cfg(feature = "mpi")]
impl Processes {
    /// Joins the others, if there are any.
    ///
    /// # Errors
    /// [`Error::Run`] if MPI does not start; [`Error::Usage`] if it does not know the others.
    pub fn join() -> Result<Self> {
        let Some(name) = one_of_several() else { return Ok(Self { world: None }) };
        let world = over_mpi::World::join()?;
        match world.share().world {
            1 => Err(several(
                name,
                "MPI finds no other: each would write the same run. Start them with the `mpirun` of the MPI that this program was built with, or with an `srun --mpi=…` that it knows (docs/cluster.md)",
            )),
            _ => Ok(Self { world: Some(world) }),
        }
    }

    /// All processes.
    pub fn group(&self) -> Group<'_> {
        self.world.as_ref().map_or(Group::alone(), |world| Group::over(world))
    }

    /// Leaves the others. An error of which they do not know ends them too.
    pub fn leave(self, ended: Result<()>) -> Result<()> {
        let (Some(world), Err(error)) = (&self.world, &ended) else { return ended };
        match (self.group().share().rank, error) {
            (0, Error::Interrupted(_)) => ended,
            // The first process says why.
            (_, Error::Interrupted(_)) => Ok(()),
            (rank, error) => {
                let whose = if rank == 0 { String::new() } else { format!("process {rank}: ") };
                eprintln!("error: {whose}{error}");
                world.abort(error.exit_code())
            }
        }
    }
}

#[cfg(not(feature = "mpi"))]
impl Processes {
    /// This process alone.
    ///
    /// # Errors
    /// [`Error::Usage`] if it was started as one of several.
    pub fn join() -> Result<Self> {
        refuse_several(
            "this build of coconut cannot train with others: each would write the same run. Build it with `--features coconut-cli/mpi` (docs/cluster.md), or start it once; where each has a recipe of its own, unset that variable",
        )?;
        Ok(Self {})
    }

    /// This process.
    pub fn group(&self) -> Group<'_> {
        Group::alone()
    }

    /// Hands on how the run ended.
    pub fn leave(self, ended: Result<()>) -> Result<()> {
        ended
    }
}

#[cfg(feature = "mpi")]
mod over_mpi {
    use coconut::{
        Error, Result,
        train::{Network, Share},
    };
    use mpi::{
        Threading,
        environment::Universe,
        topology::SimpleCommunicator,
        traits::{Communicator, CommunicatorCollectives},
    };

    /// All processes that were started together. A process that MPI cannot reach ends the others.
    pub struct World {
        world: SimpleCommunicator,
        /// MPI ends with it.
        _universe: Universe,
    }

    impl World {
        pub fn join() -> Result<Self> {
            let (universe, _) = mpi::initialize_with_threading(Threading::Funneled)
                .ok_or_else(|| Error::Run("MPI was started before.".into()))?;
            Ok(Self { world: universe.world(), _universe: universe })
        }

        pub fn abort(&self, code: u8) -> ! {
            self.world.abort(code.into())
        }
    }

    impl Network for World {
        fn share(&self) -> Share {
            Share { rank: self.world.rank() as usize, world: self.world.size() as usize }
        }

        fn gather(&self, own: &[f64]) -> Vec<f64> {
            let mut all = vec![0.0; own.len() * self.share().world];
            self.world.all_gather_into(own, &mut all[..]);
            all
        }

        fn exchange(&self, own: &[f32], received: &mut [f32]) {
            self.world.all_to_all_into(own, received);
        }

        fn collect(&self, own: &[f32], all: &mut [f32]) {
            self.world.all_gather_into(own, all);
        }
    }
}
