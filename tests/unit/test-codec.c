/* SPDX-License-Identifier: MIT */
/* Compressed clusters: what is encoded, decodes; what is not sound, does not, and costs no memory.
 */
#include <malloc.h>
#include <stdlib.h>
#include <zlib.h>
#include <zstd.h>

#include "drivers/check.h"
#include "drivers/random.h"
#include "format/codec.h"

#define CLUSTER_BYTES_MAX (2u << 20)
#define LEVEL_MAX         9u
#define WINDOW_BYTES      4096u
#define CLUSTER_BYTES     65536u
#define SECTOR_BYTES      512u

/* Room that an encoder may want beyond what the stream takes. */
#define SLACK_BYTES 16u

/* Memory that a decoder may take at most, whatever it is given. */
#define MEMORY_BYTES_MAX (1u << 20)

static const enum vd_codec codecs[] = {VD_CODEC_DEFLATE, VD_CODEC_ZSTD};

/* Words of a small vocabulary, and words from before again: near, and farther than 4 KiB. */
static void fill_text(struct vt_random *random, uint8_t *bytes, size_t length)
{
    size_t at = 0;
    while (at < length) {
        size_t step = 3 + (size_t)vt_random_below(random, 60);
        size_t back = 1 + (size_t)vt_random_below(random, 3u * WINDOW_BYTES);
        step = step < length - at ? step : length - at;
        for (size_t i = 0; i < step; i++, at++)
            bytes[at] = back <= at ? bytes[at - back]
                                   : (uint8_t)("etaoin shrdlu\n"[vt_random_below(random, 14)]);
        if (at < length && vt_random_chance(random, 30))
            bytes[at++] = (uint8_t)vt_random_next(random);
    }
}

enum content {
    CONTENT_ZEROS,
    CONTENT_TEXT,
    CONTENT_FAR, /* each 4 KiB again, at distances around the window */
    CONTENT_HALF,
    CONTENT_RANDOM,
    CONTENT_KINDS
};

static void fill_content(enum content content, uint8_t *bytes, size_t length, uint64_t seed)
{
    struct vt_random random = {.state = seed};
    memset(bytes, 0, length);
    if (content == CONTENT_TEXT)
        fill_text(&random, bytes, length);
    if (content == CONTENT_RANDOM || content == CONTENT_FAR)
        vt_random_fill(&random, bytes, length);
    if (content == CONTENT_HALF)
        vt_random_fill(&random, bytes, length / 2);
    for (size_t at = WINDOW_BYTES + 8; content == CONTENT_FAR && at < length; at++)
        if (at % 300 > 20)
            bytes[at] = bytes[at - (WINDOW_BYTES - 4 + at / 300 % 9)];
}

/* A reader with a window of 4 KiB and not a byte more, which it shows by asking for single bytes.
 */
static void assert_window(const uint8_t *in, size_t in_bytes, const uint8_t *expected,
                          size_t out_bytes)
{
    z_stream stream = {0};
    assert_int_equal(inflateInit2(&stream, -12), Z_OK);
    stream.next_in = (void *)(uintptr_t)in;
    stream.avail_in = (uInt)in_bytes;
    int ret = Z_OK;
    for (size_t at = 0; at < out_bytes; at++) {
        uint8_t byte;
        stream.next_out = &byte;
        stream.avail_out = 1;
        ret = inflate(&stream, Z_SYNC_FLUSH);
        assert_true(ret == Z_OK || ret == Z_STREAM_END);
        assert_int_equal(stream.avail_out, 0);
        assert_int_equal(byte, expected[at]);
    }
    if (ret == Z_OK) {
        uint8_t byte;
        stream.next_out = &byte;
        stream.avail_out = 1;
        assert_int_equal(inflate(&stream, Z_SYNC_FLUSH), Z_STREAM_END);
        assert_int_equal(stream.avail_out, 1);
    }
    assert_int_equal(stream.avail_in, 0);
    inflateEnd(&stream);
}

struct buffers {
    uint8_t *plain, *encoded, *decoded;
    struct vd_decoder *decoder;
};

static void begin(struct buffers *buffers)
{
    buffers->plain = malloc(CLUSTER_BYTES_MAX);
    buffers->encoded = malloc(CLUSTER_BYTES_MAX + SECTOR_BYTES);
    buffers->decoded = malloc(CLUSTER_BYTES_MAX + SECTOR_BYTES);
    assert_true(buffers->plain && buffers->encoded && buffers->decoded);
    VT_OK(vd_decoder_new(&buffers->decoder, &vt_err));
}

static void end(struct buffers *buffers)
{
    vd_decoder_free(buffers->decoder);
    free(buffers->decoded);
    free(buffers->encoded);
    free(buffers->plain);
}

/* Decodes from memory that ends where the stream's garbage does, so that sanitizers see it all. */
static int decode(struct buffers *buffers, enum vd_codec codec, size_t encoded_bytes,
                  size_t cluster_bytes, struct vdisk_error *err)
{
    uint8_t *in = malloc(encoded_bytes), *out = malloc(cluster_bytes);
    assert_true(in && out);
    memcpy(in, buffers->encoded, encoded_bytes);
    int ret = vd_decode(buffers->decoder, codec, in, encoded_bytes, out, cluster_bytes, err);
    memcpy(buffers->decoded, out, cluster_bytes);
    free(out);
    free(in);
    return ret;
}

static void check_sound(struct buffers *buffers, enum vd_codec codec, size_t encoded_bytes,
                        size_t cluster_bytes)
{
    VT_OK(decode(buffers, codec, encoded_bytes, cluster_bytes, &vt_err));
    assert_memory_equal(buffers->decoded, buffers->plain, cluster_bytes);
}

static void check_round(struct buffers *buffers, struct vd_encoder *encoder, enum vd_codec codec,
                        size_t cluster_bytes, enum content content)
{
    size_t encoded_bytes = SIZE_MAX;
    memset(buffers->encoded, 0xA5, cluster_bytes + SECTOR_BYTES);
    VT_OK(vd_encode(encoder, buffers->plain, cluster_bytes, buffers->encoded, cluster_bytes,
                    &encoded_bytes, &vt_err));
    assert_int_equal(buffers->encoded[cluster_bytes], 0xA5);
    /* zlib takes no distance of quite 4 KiB. */
    if (content != CONTENT_FAR)
        assert_int_equal(encoded_bytes == 0, content == CONTENT_RANDOM);
    if (!encoded_bytes)
        return;
    assert_true(encoded_bytes < cluster_bytes);
    if (codec == VD_CODEC_DEFLATE)
        assert_window(buffers->encoded, encoded_bytes, buffers->plain, cluster_bytes);
    check_sound(buffers, codec, encoded_bytes, cluster_bytes);
    /* Garbage: zeros, and what looks like the start of another stream. */
    memset(buffers->encoded + encoded_bytes, 0, SECTOR_BYTES);
    check_sound(buffers, codec, encoded_bytes + SECTOR_BYTES, cluster_bytes);
    memmove(buffers->encoded + encoded_bytes, buffers->encoded, 16);
    check_sound(buffers, codec, encoded_bytes + 16, cluster_bytes);
}

static void test_round(void **state)
{
    (void)state;
    static const size_t sizes[] = {512, 4096, CLUSTER_BYTES, CLUSTER_BYTES_MAX};
    struct buffers buffers;
    begin(&buffers);
    for (unsigned c = 0; c < 2; c++) {
        for (unsigned level = 0; level <= LEVEL_MAX; level++) {
            struct vd_encoder *encoder;
            VT_OK(vd_encoder_new(codecs[c], level, &encoder, &vt_err));
            for (unsigned s = 0; s < sizeof(sizes) / sizeof(*sizes); s++) {
                /* The largest ones take long. */
                if (sizes[s] == CLUSTER_BYTES_MAX && level > 1 && level % 4 != 3)
                    continue;
                for (enum content content = 0; content < CONTENT_KINDS; content++) {
                    fill_content(content, buffers.plain, sizes[s], level + 1);
                    check_round(&buffers, encoder, codecs[c], sizes[s], content);
                }
            }
            vd_encoder_free(encoder);
        }
    }
    end(&buffers);
}

static void test_levels(void **state)
{
    (void)state;
    struct vd_encoder *encoder = NULL;
    for (unsigned c = 0; c < 2; c++)
        VT_FAILS(EINVAL, vd_encoder_new(codecs[c], LEVEL_MAX + 1, &encoder, &vt_err));
    assert_string_equal(vd_codec_name(VD_CODEC_DEFLATE), "zlib");
    assert_string_equal(vd_codec_name(VD_CODEC_ZSTD), "zstd");
    vd_encoder_free(NULL);
    vd_decoder_free(NULL);
}

static size_t encode_text(struct buffers *buffers, enum vd_codec codec, size_t cluster_bytes)
{
    struct vd_encoder *encoder;
    size_t encoded_bytes;
    fill_content(CONTENT_TEXT, buffers->plain, cluster_bytes, 7);
    VT_OK(vd_encoder_new(codec, 0, &encoder, &vt_err));
    VT_OK(vd_encode(encoder, buffers->plain, cluster_bytes, buffers->encoded, cluster_bytes,
                    &encoded_bytes, &vt_err));
    assert_true(encoded_bytes > 0);
    vd_encoder_free(encoder);
    return encoded_bytes;
}

/* Room of any length: never more than that is written, and a stream that fits exactly is not it. */
static void test_room(void **state)
{
    (void)state;
    struct buffers buffers;
    begin(&buffers);
    for (unsigned c = 0; c < 2; c++) {
        size_t whole = encode_text(&buffers, codecs[c], 4096), got;
        struct vd_encoder *encoder;
        VT_OK(vd_encoder_new(codecs[c], 0, &encoder, &vt_err));
        for (size_t room = 1; room < whole + 20; room++) {
            uint8_t *out = malloc(room);
            assert_non_null(out);
            VT_OK(vd_encode(encoder, buffers.plain, 4096, out, room, &got, &vt_err));
            assert_true(got < room && (got == 0 || got >= whole - SLACK_BYTES));
            assert_true(room <= whole + SLACK_BYTES || got > 0);
            free(out);
        }
        vd_encoder_free(encoder);
    }
    end(&buffers);
}

static void test_cut_off(void **state)
{
    (void)state;
    struct buffers buffers;
    begin(&buffers);
    for (unsigned c = 0; c < 2; c++) {
        size_t whole = encode_text(&buffers, codecs[c], 4096);
        /* The last byte of a deflate stream may hold nothing but its end. */
        for (size_t length = 1; length + 4 < whole; length++)
            VT_FAILS(EBADMSG, decode(&buffers, codecs[c], length, 4096, &vt_err));
        check_sound(&buffers, codecs[c], whole, 4096);
        VT_FAILS(EBADMSG, decode(&buffers, codecs[c], whole, 8192, &vt_err));
        VT_FAILS(EBADMSG, decode(&buffers, codecs[c], whole, 4097, &vt_err));
    }
    end(&buffers);
}

/* Other writers may leave the end of the stream away, or go on behind the cluster. */
static void test_deflate_of_others(void **state)
{
    (void)state;
    struct buffers buffers;
    begin(&buffers);
    fill_content(CONTENT_FAR, buffers.plain, 2u * CLUSTER_BYTES, 3);
    for (int flush = Z_SYNC_FLUSH; flush <= Z_FINISH; flush += Z_FINISH - Z_SYNC_FLUSH) {
        for (unsigned clusters = 1; clusters <= 2; clusters++) {
            z_stream stream = {0};
            assert_int_equal(deflateInit2(&stream, 6, Z_DEFLATED, -15, 9, 0), Z_OK);
            stream.next_in = buffers.plain;
            stream.avail_in = clusters * CLUSTER_BYTES;
            stream.next_out = buffers.encoded;
            stream.avail_out = CLUSTER_BYTES_MAX;
            deflate(&stream, flush);
            size_t made = CLUSTER_BYTES_MAX - stream.avail_out;
            deflateEnd(&stream);
            memset(buffers.encoded + made, 0xFF, 100); /* a block of no kind that there is */
            check_sound(&buffers, VD_CODEC_DEFLATE, made + 100, CLUSTER_BYTES);
        }
    }
    end(&buffers);
}

/* Appends the frame of @length bytes. */
static size_t add_frame(struct buffers *buffers, size_t at, size_t from, size_t length)
{
    size_t made = ZSTD_compress(buffers->encoded + at, CLUSTER_BYTES_MAX - at,
                                buffers->plain + from, length, 3);
    assert_false(ZSTD_isError(made));
    return at + made;
}

static void test_zstd_frames(void **state)
{
    (void)state;
    static const uint8_t skippable[] = {0x5A, 0x2A, 0x4D, 0x18, 3, 0, 0, 0, 'a', 'b', 'c'};
    static const uint8_t old_magic[] = {0x27, 0xB5, 0x2F, 0xFD};
    struct buffers buffers;
    begin(&buffers);
    fill_content(CONTENT_TEXT, buffers.plain, CLUSTER_BYTES, 5);
    size_t at = add_frame(&buffers, 0, 0, 1000);
    memcpy(buffers.encoded + at, skippable, sizeof(skippable));
    at = add_frame(&buffers, at + sizeof(skippable), 1000, 0);
    at = add_frame(&buffers, at, 1000, CLUSTER_BYTES - 1000);
    memset(buffers.encoded + at, 0x11, SECTOR_BYTES);
    check_sound(&buffers, VD_CODEC_ZSTD, at, CLUSTER_BYTES);
    check_sound(&buffers, VD_CODEC_ZSTD, at + SECTOR_BYTES, CLUSTER_BYTES);
    /* More than a cluster, less than one, nothing but frames of nothing, and formats of before. */
    VT_FAILS(EBADMSG, decode(&buffers, VD_CODEC_ZSTD, at, CLUSTER_BYTES - 1, &vt_err));
    VT_FAILS(EBADMSG, decode(&buffers, VD_CODEC_ZSTD, at + 100, CLUSTER_BYTES + 1, &vt_err));
    memcpy(buffers.encoded, skippable, sizeof(skippable));
    VT_FAILS(EBADMSG, decode(&buffers, VD_CODEC_ZSTD, sizeof(skippable), 512, &vt_err));
    memcpy(buffers.encoded, old_magic, sizeof(old_magic));
    VT_FAILS(EBADMSG, decode(&buffers, VD_CODEC_ZSTD, at, CLUSTER_BYTES, &vt_err));
    end(&buffers);
}

static size_t memory_in_use(void)
{
    struct mallinfo2 info = mallinfo2();
    return info.uordblks + info.hblkhd;
}

/* Frames that claim a window of 2 GiB, or a content of as much, or that really make it. */
static void test_zstd_bombs(void **state)
{
    (void)state;
    struct buffers buffers;
    begin(&buffers);
    size_t length = encode_text(&buffers, VD_CODEC_ZSTD, CLUSTER_BYTES);
    uint8_t first[4];
    memcpy(first, buffers.encoded + 4, sizeof(first));
    size_t before = memory_in_use();
    assert_int_equal(first[0], 0); /* a window descriptor and nothing else follows */
    buffers.encoded[5] = 21u << 3;
    check_sound(&buffers, VD_CODEC_ZSTD, length, CLUSTER_BYTES);
    assert_true(memory_in_use() < before + MEMORY_BYTES_MAX);
    buffers.encoded[5] = 0xFF;
    VT_FAILS(EBADMSG, decode(&buffers, VD_CODEC_ZSTD, length, CLUSTER_BYTES, &vt_err));

    /* Eight bytes of content size. */
    length = encode_text(&buffers, VD_CODEC_ZSTD, CLUSTER_BYTES);
    memmove(buffers.encoded + 13, buffers.encoded + 6, length - 6);
    buffers.encoded[4] = 0xE0;
    memset(buffers.encoded + 5, 0x3F, 8);
    VT_FAILS(EBADMSG, decode(&buffers, VD_CODEC_ZSTD, length + 7, CLUSTER_BYTES, &vt_err));
    assert_true(memory_in_use() < before + MEMORY_BYTES_MAX);

    memset(buffers.plain, 0, CLUSTER_BYTES_MAX);
    length = add_frame(&buffers, 0, 0, CLUSTER_BYTES_MAX);
    VT_FAILS(EBADMSG, decode(&buffers, VD_CODEC_ZSTD, length, CLUSTER_BYTES, &vt_err));
    assert_true(memory_in_use() < before + MEMORY_BYTES_MAX);
    end(&buffers);
}

/* Whatever is changed: the same bytes, or others, or an error; never anything outside. */
static void test_changed(void **state)
{
    (void)state;
    struct vt_random random = {.state = 20261121};
    struct buffers buffers;
    begin(&buffers);
    print_message("# seed %llu\n", (unsigned long long)random.state);
    for (unsigned c = 0; c < 2; c++) {
        for (unsigned round = 0; round < VT_ROUNDS(2000); round++) {
            size_t length = encode_text(&buffers, codecs[c], 4096);
            for (uint64_t i = 1 + vt_random_below(&random, 4); i; i--)
                buffers.encoded[vt_random_below(&random, length)] ^=
                    (uint8_t)(1u << vt_random_below(&random, 8));
            struct vdisk_error err = {0};
            int ret = decode(&buffers, codecs[c], length, 4096, &err);
            assert_true(ret == 0 || ret == -EBADMSG);
            assert_int_equal(err.message[0] == '\0', ret == 0);
        }
    }
    /* A decoder that failed is as good as new. */
    for (unsigned c = 0; c < 2; c++)
        check_sound(&buffers, codecs[c], encode_text(&buffers, codecs[c], 4096), 4096);
    end(&buffers);
}

int main(void)
{
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round),
        cmocka_unit_test(test_levels),
        cmocka_unit_test(test_room),
        cmocka_unit_test(test_cut_off),
        cmocka_unit_test(test_deflate_of_others),
        cmocka_unit_test(test_zstd_frames),
        cmocka_unit_test(test_zstd_bombs),
        cmocka_unit_test(test_changed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
