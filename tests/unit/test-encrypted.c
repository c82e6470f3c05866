/* SPDX-License-Identifier: MIT */
/* Encrypted clusters through the I/O loop (image/encrypted.h, X1 to X3). */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "drivers/check.h"
#include "drivers/random.h"

#define DISK_BYTES (1u << 20)
#define STRIPE     100u /* bytes that a thread has to itself: sectors belong to several */
#define THREADS    4u
#define ROUNDS     1500u

static const struct vdisk_passphrase secret = {"secret", 6};
static const struct vdisk_passphrase wrong = {"Secret", 6};

/* CBC: a sector that is torn anywhere is garbage behind that. */
static const struct vdisk_encrypt_options cbc = {.struct_bytes = sizeof(cbc),
                                                 .iter_time_ms = 1,
                                                 .passphrase = {"secret", 6},
                                                 .cipher_alg = "aes-128",
                                                 .cipher_mode = "cbc",
                                                 .ivgen_alg = "essiv"};

struct fixture {
    char folder[64];
    char name[80];
};

static void setup(struct fixture *fix, const struct vdisk_encrypt_options *encrypt)
{
    struct vdisk_create_options create = {
        .struct_bytes = sizeof(create), .size = DISK_BYTES, .encrypt = encrypt};
    snprintf(fix->folder, sizeof(fix->folder), "%s/vdisk-encrypted.XXXXXX",
             getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
    assert_non_null(mkdtemp(fix->folder));
    snprintf(fix->name, sizeof(fix->name), "%s/image", fix->folder);
    VT_OK(vdisk_image_create(fix->name, "qcow2", &create, &vt_err));
}

static void teardown(struct fixture *fix)
{
    assert_int_equal(unlink(fix->name), 0);
    assert_int_equal(rmdir(fix->folder), 0);
}

static int try_open(const struct fixture *fix, uint32_t flags,
                    const struct vdisk_passphrase *passphrase, struct vdisk_image **image,
                    struct vdisk_error *err)
{
    struct vdisk_passphrases list = {
        .struct_bytes = sizeof(list), .entries = passphrase ? 1 : 0, .list = passphrase};
    struct vdisk_open_options open = {
        .struct_bytes = sizeof(open), .flags = flags, .format = "qcow2", .passphrases = &list};
    return vdisk_image_open(fix->name, &open, image, err);
}

static struct vdisk_image *open_it(const struct fixture *fix)
{
    struct vdisk_image *image;
    VT_OK(try_open(fix, VDISK_OPEN_WRITE, &secret, &image, &vt_err));
    return image;
}

/* ---- One after the other ---- */

static void change(struct vt_random *random, struct vdisk_image *image, uint8_t *model)
{
    static uint8_t bytes[200000];
    size_t length = (size_t)vt_random_below(random, vt_random_chance(random, 70) ? 2000 : 200000);
    size_t offset = (size_t)vt_random_below(random, DISK_BYTES - length);
    size_t cut = (size_t)vt_random_below(random, length + 1);
    unsigned flags = vt_random_chance(random, 30) ? VDISK_ZERO_NO_HOLE : 0;
    if (vt_random_chance(random, 25)) {
        VT_OK(vdisk_image_write_zeroes(image, offset, length, flags, &vt_err));
        memset(model + offset, 0, length);
        return;
    }
    memset(bytes, (int)vt_random_below(random, 256), length);
    memcpy(model + offset, bytes, length);
    struct iovec iov[2] = {{bytes, cut}, {bytes + cut, length - cut}};
    VT_OK(vdisk_image_pwritev(image, iov, 2, offset, &vt_err));
    /* X1 */
    assert_memory_equal(bytes, model + offset, length);
}

static void look(struct vt_random *random, struct vdisk_image *image, const uint8_t *model)
{
    static uint8_t bytes[200000];
    size_t length = (size_t)vt_random_below(random, sizeof(bytes));
    size_t offset = (size_t)vt_random_below(random, DISK_BYTES - length);
    size_t cut = (size_t)vt_random_below(random, length + 1);
    struct iovec iov[2] = {{bytes, cut}, {bytes + cut, length - cut}};
    VT_OK(vdisk_image_preadv(image, iov, 2, offset, &vt_err));
    assert_memory_equal(bytes, model + offset, length);
}

static void test_random(void **state)
{
    struct vt_random random = {.state = 20160121};
    uint8_t *model = calloc(1, DISK_BYTES);
    struct fixture fix;
    (void)state;
    assert_non_null(model);
    setup(&fix, &cbc);
    struct vdisk_image *image = open_it(&fix);
    for (unsigned i = 0; i < VT_ROUNDS(ROUNDS); i++) {
        change(&random, image, model);
        look(&random, image, model);
        if (vt_random_chance(&random, 2)) {
            VT_OK(vdisk_image_close(image, &vt_err));
            image = open_it(&fix);
        }
    }
    VT_OK(vdisk_image_close(image, &vt_err));
    teardown(&fix);
    free(model);
}

/* ---- At once ---- */

struct worker {
    struct vdisk_image *image;
    unsigned number;
    uint8_t *model; /* of this thread's stripes */
    const char *fault;
};

/* A stripe of this thread. */
static size_t some_stripe(const struct worker *worker, struct vt_random *random)
{
    size_t stripes = 40000 / STRIPE / THREADS; /* few, so that they meet */
    return ((size_t)vt_random_below(random, stripes) * THREADS + worker->number) * STRIPE;
}

static void *work(void *opaque)
{
    struct worker *worker = opaque;
    struct vt_random random = {.state = worker->number};
    uint8_t bytes[STRIPE];
    for (unsigned i = 0; i < ROUNDS && !worker->fault; i++) {
        size_t offset = some_stripe(worker, &random);
        bool zeroes = vt_random_chance(&random, 10);
        memset(bytes, zeroes ? 0 : (int)(i + 1), sizeof(bytes));
        if ((zeroes ? vdisk_image_write_zeroes(worker->image, offset, STRIPE, 0, NULL)
                    : vdisk_image_pwrite(worker->image, bytes, STRIPE, offset, NULL)) < 0)
            worker->fault = "a write failed";
        memcpy(worker->model + offset, bytes, STRIPE);
        offset = some_stripe(worker, &random);
        if (vdisk_image_pread(worker->image, bytes, STRIPE, offset, NULL) < 0)
            worker->fault = "a read failed";
        else if (memcmp(bytes, worker->model + offset, STRIPE) != 0)
            worker->fault = "a stripe is not what its thread wrote";
    }
    return NULL;
}

static void test_threads(void **state)
{
    uint8_t *model = calloc(1, DISK_BYTES);
    uint8_t *found = calloc(1, DISK_BYTES);
    struct worker workers[THREADS];
    pthread_t threads[THREADS];
    struct fixture fix;
    (void)state;
    assert_non_null(model);
    assert_non_null(found);
    setup(&fix, &cbc);
    struct vdisk_image *image = open_it(&fix);
    for (unsigned i = 0; i < THREADS; i++) {
        workers[i] = (struct worker){.image = image, .number = i, .model = model};
        assert_int_equal(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
    }
    for (unsigned i = 0; i < THREADS; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    for (unsigned i = 0; i < THREADS; i++)
        if (workers[i].fault)
            fail_msg("thread %u: %s", i, workers[i].fault);
    VT_OK(vdisk_image_close(image, &vt_err));
    image = open_it(&fix);
    VT_OK(vdisk_image_pread(image, found, DISK_BYTES, 0, &vt_err));
    assert_memory_equal(found, model, DISK_BYTES);
    VT_OK(vdisk_image_close(image, &vt_err));
    teardown(&fix);
    free(model);
    free(found);
}

/* ---- Without the key ---- */

static void test_locked(void **state)
{
    struct vdisk_image_info info = {.struct_bytes = sizeof(info)};
    struct vdisk_image *image;
    struct vdisk_extent extent;
    struct fixture fix;
    uint8_t bytes[512] = {7};
    (void)state;
    setup(&fix, &cbc);
    image = open_it(&fix);
    VT_OK(vdisk_image_pwrite(image, bytes, sizeof(bytes), 0, &vt_err));
    VT_OK(vdisk_image_extent(image, 0, 65536, &extent, &vt_err));
    assert_int_equal(extent.flags, VDISK_EXTENT_DATA | VDISK_EXTENT_PRESENT);
    VT_OK(vdisk_image_close(image, &vt_err));

    VT_FAILS(EKEYREJECTED, try_open(&fix, 0, &wrong, &image, &vt_err));
    VT_OK(try_open(&fix, VDISK_OPEN_WRITE, NULL, &image, &vt_err));
    VT_OK(vdisk_image_info(image, &info, &vt_err));
    assert_true(info.flags & VDISK_INFO_LOCKED);
    assert_string_equal(info.encrypt->cipher_alg, "aes-128");
    assert_true(info.encrypt->slots[0].is_active);
    VT_FAILS(ENOKEY, vdisk_image_pread(image, bytes, sizeof(bytes), 0, &vt_err));
    VT_FAILS(ENOKEY, vdisk_image_pwrite(image, bytes, sizeof(bytes), 0, &vt_err));
    VT_FAILS(ENOKEY, vdisk_image_pwrite(image, bytes, sizeof(bytes), 500000, &vt_err));
    VT_FAILS(ENOKEY, vdisk_image_write_zeroes(image, 0, 65536, 0, &vt_err));
    VT_FAILS(ENOKEY, vdisk_image_discard(image, 0, 65536, &vt_err));
    VT_FAILS(ENOKEY, vdisk_image_resize(image, 2 * DISK_BYTES, 0, &vt_err));
    /* What was never written reads as zero to everybody. */
    VT_OK(vdisk_image_pread(image, bytes, sizeof(bytes), 500000, &vt_err));
    VT_OK(vdisk_image_close(image, &vt_err));

    image = open_it(&fix);
    VT_OK(vdisk_image_pread(image, bytes, sizeof(bytes), 0, &vt_err));
    assert_int_equal(bytes[0], 7);
    VT_OK(vdisk_image_close(image, &vt_err));
    teardown(&fix);
}

static void assert_refused(const struct vdisk_encrypt_options *encrypt, int error)
{
    struct vdisk_create_options create = {
        .struct_bytes = sizeof(create), .size = DISK_BYTES, .encrypt = encrypt};
    VT_FAILS(error, vdisk_image_create("/nonexistent/image", "qcow2", &create, &vt_err));
}

static void test_refused(void **state)
{
    struct vdisk_encrypt_options encrypt = cbc;
    (void)state;
    encrypt.format = "aes";
    assert_refused(&encrypt, ENOTSUP);
    encrypt.format = "luks2";
    assert_refused(&encrypt, EINVAL);
    encrypt = cbc;
    encrypt.passphrase.length = 0;
    assert_refused(&encrypt, EINVAL);
    encrypt = cbc;
    encrypt.cipher_alg = "aes";
    assert_refused(&encrypt, EINVAL);
    encrypt = cbc;
    encrypt.ivgen_hash_alg = "sha1";
    assert_refused(&encrypt, ENOTSUP);
    encrypt = cbc;
    encrypt.iter_time_ms = 60001;
    assert_refused(&encrypt, EINVAL);
    encrypt = cbc;
    encrypt.reserved = 1;
    assert_refused(&encrypt, EINVAL);
    struct vdisk_create_options raw = {
        .struct_bytes = sizeof(raw), .size = DISK_BYTES, .encrypt = &cbc};
    VT_FAILS(EINVAL, vdisk_image_create("/nonexistent/image", "raw", &raw, &vt_err));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_locked),
        cmocka_unit_test(test_refused),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
