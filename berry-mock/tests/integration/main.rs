//! The mock from the outside: its wire format, its faults over every transport, its pace and what it tells about itself.

#[cfg(test)]
mod dialect;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod observation;
#[cfg(test)]
mod pace;
#[cfg(test)]
mod replies;
#[cfg(test)]
mod support;
