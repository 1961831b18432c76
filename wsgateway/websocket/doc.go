// Package websocket is the part of RFC 6455 that does not depend on what is sent: headers
// of frames, messages in fragments, close codes, and compressed messages (RFC 7692,
// without a context that outlives one).
//
// # Guarantees
//
// A Reader decides by the header alone, before it takes a byte of the payload, and never
// reserves more memory than has arrived. What RFC 6455 forbids ends the reading with an
// Error that has the close code for the peer: there is no input that panics. A text
// message that is not UTF-8 fails with the byte that shows it; a compressed one when it
// is complete, so that no decompressor is held for a message under way.
package websocket
