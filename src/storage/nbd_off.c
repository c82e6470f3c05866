/* SPDX-License-Identifier: MIT */
/* What stands in for the nbd driver in a library built without libnbd: it says so. */
#include "storage/nbd.h"
#include "storage/nbd_dirty.h"
#include "storage/nbd_uri.h"

static int nbd_off_open(struct vd_storage *storage, const char *name,
                        const struct vd_storage_options *options, struct vdisk_error *err)
{
    (void)storage;
    (void)name;
    (void)options;
    return vd_err_set(err, EOPNOTSUPP,
                      "this library was built without NBD: build it with libnbd, -Dnbd=enabled");
}

/* Only so that opening for writing is not refused for another reason. */
static int nbd_off_pwritev(struct vd_storage *storage, const struct iovec *iov, int iov_entries,
                           uint64_t offset, struct vdisk_error *err)
{
    (void)storage;
    (void)iov;
    (void)iov_entries;
    (void)offset;
    return vd_err_set(err, EOPNOTSUPP, "this library was built without NBD");
}

static const char *const nbd_schemes[] = {VD_NBD_SCHEMES, NULL};

/* Nothing ever gets open, so the other functions are never called. */
const struct vd_storage_driver vd_storage_nbd_driver = {
    .name = "nbd",
    .schemes = nbd_schemes,
    .open = nbd_off_open,
    .identify = vd_nbd_identify,
    .pwritev = nbd_off_pwritev,
};

int vd_nbd_read_bitmap(const char *name, const char *bitmap,
                       const struct vdisk_network_options *network, struct vd_bitmap *dirty,
                       struct vdisk_error *err)
{
    (void)bitmap;
    (void)network;
    (void)dirty;
    return vd_err_set(err, EOPNOTSUPP, "%s: this library was built without NBD", name);
}
