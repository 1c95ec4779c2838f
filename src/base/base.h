/*
 * base: bytes, arenas, builders, bounded readers, look-up answers, endpoints, units of time.
 *
 * Flow:   pure functions on memory; every other room stands on this one.
 * Owns:   nothing; an arena or a buffer belongs to whoever declared it.
 * Sleeps: never.
 * Fails:  by returning NULL, false or a sticky `failed` flag; memory is never assumed.
 * Never:  performs I/O, reads a clock, keeps global state.
 */
#ifndef BASE_BASE_H
#define BASE_BASE_H

#include "base/arena.h"
#include "base/buffer.h"
#include "base/bytes.h"
#include "base/endpoint.h"
#include "base/lookup.h"
#include "base/macros.h"
#include "base/reader.h"
#include "base/units.h"

#endif
