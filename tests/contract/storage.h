/* SPDX-License-Identifier: MIT */
/*
 * What every storage driver has to do, as tests that take the storage from a factory.  A program
 * describes how its storages are made, and calls vt_storage_contract() last in main().
 *
 * VD_TEST_OPS: random operations for each factory, default 1500; 100000 for a full run.
 * VD_TEST_SEED: seed, default a fixed one; it is printed.
 */
#ifndef VT_STORAGE_H
#define VT_STORAGE_H

#include "storage/storage.h"

struct vt_storage_factory {
    const char *name;
    void *state; /* the factory's own */
    /*
     * Makes an object that holds the @bytes of @content, and opens it: for writing, or read-only
     * if that is all this driver can.  One object at a time.  Failing to is a failed test: use
     * cmocka's assertions.
     */
    struct vd_storage *(*make)(struct vt_storage_factory *factory, const uint8_t *content,
                               size_t bytes);
    /* Opens the object again after it was closed.  NULL: it is gone when it is closed. */
    struct vd_storage *(*reopen)(struct vt_storage_factory *factory, bool writable);
    /* Removes the object; it is closed.  NULL: closing was enough. */
    void (*destroy)(struct vt_storage_factory *factory);
};

/* Runs all tests with each factory, as one TAP plan.  Returns what main() has to return. */
int vt_storage_contract(struct vt_storage_factory *const *factories, size_t count);

#endif
