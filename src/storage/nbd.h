/* SPDX-License-Identifier: MIT */
/*
 * Storage on an NBD server: nbd://, nbds://, nbd+unix://, nbds+unix://, nbd+vsock://,
 * nbds+vsock://, as the NBD URI specification has them.
 *
 * An export has a fixed size.  Opening connects once; if the server says that all connections see
 * the same (multi-conn), more are made when there is work for them, and at once for writing.
 *
 * A connection that breaks is made anew, and what it had not answered is asked again: reads always,
 * changes if the server closed the connection.  A change whose server fell silent is not sent
 * again, as the server may still carry it out later, over something newer: it fails.
 *
 * A server that dies takes with it what it had acknowledged but not yet made durable, and nobody
 * can tell from outside whether the one that answers now is still the same.  So if a connection is
 * lost while there are changes that were acknowledged and not flushed, every later request on this
 * storage fails, flush above all: open it again, and write again what was not flushed.
 *
 * A server that sends nothing for the time-out is given up, and so is one that sends without
 * answering anything for ten times that; a flush may take ten times as long, too.
 *
 * What extent() answers is remembered until this storage changes something there.  If somebody else
 * changes the export, it may be old; so is then what was read a moment ago.
 */
#ifndef VD_STORAGE_NBD_H
#define VD_STORAGE_NBD_H

#include "storage/driver.h"

extern const struct vd_storage_driver vd_storage_nbd_driver;

#endif
