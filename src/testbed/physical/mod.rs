//! The testbed `physical`: hosts that are there already, named in the spec (`[testbed.physical]`) and reached by ssh,
//! or by rond through the miniccc on them.
//!
//! Nothing is installed on them: vptest copies itself into a directory that goes with the connection, and starts its agent
//! there. Connections stay from one iteration to the next. Settings are changed only as the spec asks, and put back after
//! every iteration, by the agent when it loses vptest, or at the next contact when it was killed (`crate::host::loan`).

mod borrow;
mod member;
mod nodes;
mod rond;
mod route;
mod up;
mod wishes;

use async_trait::async_trait;
use futures_util::FutureExt as _;

use self::nodes::Nodes;
use self::up::Up;
use self::wishes::Wishes;
use super::{Beside, Instance, Request, Testbed, TestbedError};
use crate::spec::{PhysicalSpec, TestbedSpec, Tuple, Way};

/// Name of this testbed in specs.
const NAME: &str = "physical";

/// See the module.
pub struct Physical {
    spec: PhysicalSpec,
    nodes: Nodes,
}

impl Physical {
    /// A testbed of these nodes. Connections begin with the first iteration and end with it.
    pub fn new(spec: &TestbedSpec) -> Self {
        Self { spec: spec.physical.clone(), nodes: Nodes::new(&spec.physical) }
    }
}

#[async_trait]
impl Testbed for Physical {
    fn name(&self) -> &'static str {
        NAME
    }

    fn beside(&self) -> Beside {
        Beside::No("its nodes are one set, which one iteration has for itself")
    }

    /// Nothing runs on this host; what a node lacks is found out there.
    fn provides(&self, _program: &str) -> bool {
        true
    }

    fn accepts(&self, tuple: &Tuple) -> Result<(), TestbedError> {
        Wishes::of(&self.spec, tuple).map(drop)
    }

    async fn preflight(&self, request: &Request) -> Result<(), TestbedError> {
        self.accepts(&request.tuple)?;
        match self.spec.way {
            Way::Ssh => nodes::has_ssh(),
            // Whether rond answers, the first contact says.
            Way::Rond => Ok(()),
        }
    }

    async fn launch(&self, request: &Request) -> Result<Box<dyn Instance>, TestbedError> {
        let wishes = Wishes::of(&self.spec, &request.tuple)?;
        // Boxed: it holds the state of all the nodes that are being reached.
        Ok(Box::new(Up::launch(wishes, &self.nodes, request).boxed().await?))
    }

    async fn close(&self) {
        self.nodes.close().await;
    }
}
