//! The mock from the outside: its wire formats, its faults over every transport, its pace and what it tells about itself.

#[cfg(test)]
mod anthropic;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod gemini;
#[cfg(test)]
mod observation;
#[cfg(test)]
mod openai;
#[cfg(test)]
mod pace;
#[cfg(test)]
mod recordings;
#[cfg(test)]
mod replies;
#[cfg(test)]
mod support;
