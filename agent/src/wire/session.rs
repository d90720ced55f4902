//! Sessions: reads the channel, keeps the table of open calls and hands each call to whoever serves it.
//!
//! Runs on one thread. Calls that a waking machine needs (Hello, Ping, Wake) are served right here, without
//! waking another thread; what may block goes to the pool.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use prost::Message;

use crate::agent::{Agent, Starting};
use crate::environment;
use crate::erase::erase;
use crate::exec::{logged, serve as exec_calls, typing};
use crate::fault::{Code, Fault};
use crate::files;
use crate::log;
use crate::pool::Pool;
use crate::proto::request::Call as Ask;
use crate::proto::{reply, Request};
use crate::service;
use crate::stats;
use crate::sync::lock;
use crate::volume;
use crate::wake;
use crate::wire::call::{Call, Stop};
use crate::wire::channel::{Arrival, Channel};
use crate::wire::frame::{Decoder, Inbound};
use crate::wire::outlet::Outlet;

/// Calls open at once.
const MAX_CALLS: usize = 256;
/// Largest Request, put together from PART frames and its OPEN.
const MAX_REQUEST_BYTES: usize = 1 << 20;
/// Read size: the port hands out at most one page or 32 KiB at a time, a socket more.
const READ_BYTES: usize = 65_536;

type Calls = Arc<Mutex<BTreeMap<u32, Arc<Call>>>>;

struct Session {
    agent: Arc<Agent>,
    outlet: Arc<Outlet>,
    pool: Pool,
    /// Counts sessions; the present one's number.
    number: u64,
    calls: Calls,
    newest_stream: u32,
    /// The Request that PART frames have begun. One at a time, so that its bound is the bound of them all.
    begun: Option<(u32, Vec<u8>)>,
}

/// Serves sessions one after another. Returns why the channel was lost for good.
pub(crate) fn serve(mut channel: Channel, agent: &Arc<Agent>) -> String {
    let outlet = match Outlet::new() {
        Ok(outlet) => Arc::new(outlet),
        Err(error) => return format!("cannot prepare the channel: {error}"),
    };
    let mut session = Session {
        agent: agent.clone(),
        outlet,
        pool: Pool::default(),
        number: 0,
        calls: Calls::default(),
        newest_stream: 0,
        begun: None,
    };
    let mut decoder = Decoder::default();
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match channel.read(&mut buffer) {
            Ok(Arrival::Bytes(count)) => {
                let arrived = buffer.get_mut(..count).unwrap_or_default();
                decoder.push(arrived);
                erase(arrived);
                while let Some(frame) = decoder.next_frame() {
                    if let Err(rule) = session.accept(frame, &channel) {
                        log::line(&format!("session dropped: {rule}"));
                        session.drop_calls();
                        decoder.reject();
                    }
                }
                decoder.compact();
            }
            Ok(Arrival::Closed) => {
                decoder.reset();
                session.drop_calls();
            }
            Err(error) => return format!("the channel is broken: {error}"),
        }
    }
}

impl Session {
    /// Acts on one frame.
    ///
    /// # Errors
    /// The rule of the wire that the frame breaks; the session is over then.
    fn accept(&mut self, frame: Inbound, channel: &Channel) -> Result<(), &'static str> {
        let continues = |stream: &u32| self.begun.as_ref().is_none_or(|(begun, _)| begun == stream);
        match &frame {
            Inbound::Preface(_) | Inbound::Violation(_) => {}
            Inbound::Part { stream, .. } | Inbound::Open { stream, .. } if continues(stream) => {}
            _ if self.begun.is_none() => {}
            _ => return Err("another frame stands within a request"),
        }
        match frame {
            Inbound::Preface(preface) => {
                self.drop_calls();
                self.number += 1;
                self.newest_stream = 0;
                if let Some(connection) = channel.connection() {
                    // A host that left again is noticed by the next read.
                    let _ = self.outlet.begin(self.number, connection, &preface);
                }
            }
            Inbound::Violation(_) => self.drop_calls(),
            Inbound::Part { stream, payload } => self.collect(stream, payload)?,
            Inbound::Open { stream, payload } => {
                self.collect(stream, payload)?;
                let (_, payload) = self.begun.take().unwrap_or_default();
                if stream <= self.newest_stream {
                    return Err("a stream number was used again");
                }
                self.newest_stream = stream;
                self.open(stream, &payload);
            }
            Inbound::Data { stream, payload } => {
                if let Some(call) = self.find(stream) {
                    call.deliver(payload).map_err(|_| "data without credit")?;
                }
            }
            Inbound::Credit { stream, bytes } => {
                if let Some(call) = self.find(stream) {
                    call.add_credit(bytes).map_err(|_| "more credit than was used")?;
                }
            }
            Inbound::Cancel { stream } => {
                if let Some(call) = self.find(stream) {
                    call.cancel();
                }
            }
        }
        Ok(())
    }

    fn find(&self, stream: u32) -> Option<Arc<Call>> {
        lock(&self.calls).get(&stream).cloned()
    }

    /// Adds a part to the request that is begun or begins one; the caller knows that it is the same stream's.
    fn collect(&mut self, stream: u32, payload: Vec<u8>) -> Result<(), &'static str> {
        match &mut self.begun {
            Some((_, first)) => {
                if first.len() + payload.len() > MAX_REQUEST_BYTES {
                    return Err("a request is too long");
                }
                first.extend_from_slice(&payload);
            }
            None => self.begun = Some((stream, payload)),
        }
        Ok(())
    }

    /// Ends the session, if there is one: writers stop, calls learn that nobody listens. Execs go on.
    fn drop_calls(&mut self) {
        self.outlet.end();
        self.begun = None;
        for call in std::mem::take(&mut *lock(&self.calls)).into_values() {
            call.lose();
        }
    }

    fn open(&mut self, stream: u32, payload: &[u8]) {
        let call = Arc::new(Call::new(stream, self.number, self.outlet.clone()));
        let ask = match Request::decode(payload) {
            Ok(Request { call: Some(ask) }) => ask,
            Ok(Request { call: None }) => return refuse(&call, Fault::invalid("the agent does not know this call")),
            Err(_) => return refuse(&call, Fault::invalid("the request is malformed")),
        };
        match ask {
            Ask::Ping(_) => call.end(Ok(())),
            Ask::Hello(hello) => {
                let outcome = self.agent.hello(hello).map_err(Stop::from);
                call.end(outcome.and_then(|reply| call.reply(reply::Kind::Hello(reply))));
            }
            Ask::Wake(ask) => {
                let outcome = wake::wake(&self.agent, ask).map_err(Stop::from);
                call.end(outcome.and_then(|reply| call.reply(reply::Kind::Wake(reply))));
            }
            // Here and not on the call's thread: a command that is started behind it has it.
            Ask::EnvChange(ask) => call.end(environment::change(&self.agent, ask).map_err(Stop::from)),
            Ask::ExecSignal(ask) => call.end(exec_calls::signal(&self.agent, &ask).map_err(Stop::from)),
            ask => self.dispatch(&call, ask),
        }
    }

    fn dispatch(&self, call: &Arc<Call>, ask: Ask) {
        // Here and not on the call's thread: a Freeze or an attach that comes behind it then finds it begun.
        let starting = match &ask {
            Ask::ExecStart(start) => match self.agent.begin_start(start) {
                Ok(starting) => Some(starting),
                Err(fault) => return refuse(call, fault),
            },
            _ => None,
        };
        {
            let mut calls = lock(&self.calls);
            // A machine with as many commands under way can be frozen all the same.
            if calls.len() >= MAX_CALLS && !matches!(ask, Ask::Freeze(_)) {
                drop(calls);
                return refuse(call, Fault::exhausted("too many calls at once"));
            }
            calls.insert(call.stream(), call.clone());
        }
        let job = {
            let (agent, calls, call) = (self.agent.clone(), self.calls.clone(), call.clone());
            Box::new(move || {
                let outcome = perform(&agent, &call, ask, starting);
                close(&calls, &call);
                call.end(outcome);
            })
        };
        if !self.pool.run(job) {
            close(&self.calls, call);
            refuse(call, Fault::exhausted("the guest has no thread left for this call"));
        }
    }
}

/// Takes the call out of the table, unless a later session's call has its number by now.
fn close(calls: &Calls, call: &Arc<Call>) {
    let mut calls = lock(calls);
    if calls.get(&call.stream()).is_some_and(|found| Arc::ptr_eq(found, call)) {
        calls.remove(&call.stream());
    }
}

fn refuse(call: &Call, fault: Fault) {
    call.end(Err(fault.into()));
}

/// Serves one call to its end.
fn perform(agent: &Agent, call: &Arc<Call>, ask: Ask, starting: Option<Starting>) -> Result<(), Stop> {
    if let Ask::Freeze(ask) = &ask {
        if ask.withhold_secrets {
            // Before it holds up others.
            agent.execs.await_secrets_given_up();
        }
        return match wake::freeze(agent, *ask)? {
            Some(taken) => taken.hand_over(agent, call),
            None => Ok(()),
        };
    }
    if starting.is_none() {
        agent.check_awake()?;
    }
    let roots = &agent.roots;
    match ask {
        Ask::Stats(_) => call.reply(reply::Kind::Stats(stats::collect(agent))),
        Ask::ExecStart(ask) => exec_calls::start(agent, call, ask, starting),
        Ask::ExecAttach(ask) => exec_calls::attach(agent, call, &ask),
        Ask::ExecList(_) => logged::list(agent, call),
        Ask::EnvList(_) => call.reply(reply::Kind::EnvNames(environment::names(agent))),
        Ask::ExecInput(ask) => typing::input(agent, call, ask),
        Ask::ExecResize(ask) => Ok(typing::resize(agent, &ask)?),
        Ask::ExecLog(ask) => logged::read(agent, call, &ask),
        Ask::FileRead(ask) => files::read::read(call, &ask),
        Ask::FileWrite(ask) => files::write::write(roots, call, &ask),
        Ask::FileList(ask) => files::list::list(call, &ask),
        Ask::FileStat(ask) => call.reply(reply::Kind::File(files::list::stat(&ask)?)),
        Ask::FileMkdir(ask) => Ok(files::change::mkdir(roots, &ask)?),
        Ask::FileMove(ask) => Ok(files::change::rename(roots, &ask)?),
        Ask::FileRemove(ask) => files::change::remove(roots, call, &ask),
        Ask::FileWatch(ask) => files::watch::watch(call, &ask),
        Ask::FileArchive(ask) => files::archive::archive(call, &ask),
        Ask::FileExtract(ask) => files::extract::extract(roots, call, &ask),
        Ask::Connect(ask) => service::connect(&agent.services, call, &ask),
        Ask::VolumeAttach(ask) => Ok(volume::attach(agent, ask)?),
        Ask::VolumeDetach(_) => Ok(volume::detach(agent)?),
        Ask::Hello(_) | Ask::Ping(_) | Ask::Wake(_) | Ask::Freeze(_) | Ask::ExecSignal(_) | Ask::EnvChange(_) => {
            Err(Fault::new(Code::Internal, "this call is served elsewhere").into())
        }
    }
}
