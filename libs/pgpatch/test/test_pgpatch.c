/*
 * test_pgpatch.c - the searches of neon_pgpatch on doctored images.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>
#include <sys/mman.h>

#include "../neon_pgpatch.c"

static void
test_table_found_once(void **state)
{
	uintptr_t	words[3] = {0x1111, 0, 0x3333};
	uintptr_t	image[64] = {0};
	uintptr_t	hit = 0;
	uintptr_t	lo = (uintptr_t) image,
				hi = lo + sizeof(image);

	assert_int_equal(neon_pgpatch_find_words(lo, hi, words, 3, &hit), 0);
	memcpy(&image[61], words, sizeof(words));
	assert_int_equal(neon_pgpatch_find_words(lo, hi, words, 3, &hit), 1);
	assert_int_equal(hit, (uintptr_t) &image[61]);

	/* one slot doctored: not the table any more */
	image[62] = 0x2222;
	assert_int_equal(neon_pgpatch_find_words(lo, hi, words, 3, &hit), 0);

	/* two candidates: the caller must refuse */
	image[62] = 0;
	memcpy(&image[7], words, sizeof(words));
	assert_int_equal(neon_pgpatch_find_words(lo, hi, words, 3, &hit), 2);

	/* cut off by the end of the segment */
	assert_int_equal(neon_pgpatch_find_words(lo, hi - 8, words, 3, &hit), 1);
}

static void
put_call(uint8_t *code, size_t at, uint8_t opcode, size_t target)
{
	int32_t		rel = (int32_t) (target - (at + 5));

	code[at] = opcode;
	memcpy(code + at + 1, &rel, 4);
}

static void
test_calls_counted(void **state)
{
	uint8_t		code[256];
	uintptr_t	lo = (uintptr_t) code;

	memset(code, 0x90, sizeof(code));
	put_call(code, 10, 0xe8, 200);
	put_call(code, 150, 0xe9, 200);
	put_call(code, 60, 0xe8, 201);
	assert_int_equal(neon_pgpatch_count_calls(lo, lo + 256, lo + 200, 0, 0), 2);
	assert_int_equal(neon_pgpatch_count_calls(lo, lo + 256, lo + 200, lo + 140, lo + 160), 1);
	assert_int_equal(neon_pgpatch_count_calls(lo, lo + 14, lo + 200, 0, 0), 0);
}

static void
test_write_and_protect(void **state)
{
	neon_pgpatch_report report;
	char	   *page = mmap(NULL, 8192, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	neon_pgpatch_report_init(&report);
	assert_true(neon_pgpatch_write(page + 4090, "0123456789", 10, PROT_READ, &report));
	assert_memory_equal(page + 4090, "0123456789", 10);
	munmap(page, 8192);
	assert_false(neon_pgpatch_write(page, "x", 1, PROT_READ, &report));
	assert_false(report.ok);
	assert_non_null(strstr(report.error, "cannot be made writable"));
}

static void
test_first_failure_is_kept(void **state)
{
	neon_pgpatch_report report;

	neon_pgpatch_report_init(&report);
	assert_true(report.ok);
	assert_false(neon_pgpatch_fail(&report, "first %d", 1));
	assert_false(neon_pgpatch_fail(&report, "second"));
	assert_string_equal(report.error, "first 1");
}

static void
test_detour_refuses(void **state)
{
	neon_pgpatch_report report;
	neon_pgpatch_image image;

	neon_pgpatch_report_init(&report);
	assert_true(neon_pgpatch_locate((void *) test_detour_refuses, &image, &report));
	/* not exported (static): refused, and nothing was written */
	assert_false(neon_pgpatch_detour(&image, "test_detour_refuses", (void *) test_detour_refuses, (void *) put_call, &report));
	assert_non_null(strstr(report.error, "does not export"));
	assert_int_equal(report.detours, 0);

	neon_pgpatch_report_init(&report);
	assert_false(neon_pgpatch_detour(&image, "strstr", (void *) strstr, (void *) put_call, &report));
	assert_false(neon_pgpatch_locate((void *) 8, &image, &report));
}

static void
test_movable_prologue(void **state)
{
	/* push rbp; mov rsp,rbp; push r15; push r14; push r13; mov ecx,r13d; push r12; push rbx */
	static const uint8_t usual[] = {0x55, 0x48, 0x89, 0xe5, 0x41, 0x57, 0x41, 0x56, 0x41, 0x55, 0x41, 0x89, 0xcd,
	0x41, 0x54, 0x53};
	static const uint8_t rip_relative[] = {0x55, 0x48, 0x8b, 0x05, 1, 2, 3, 4, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55};
	static const uint8_t jump[] = {0x55, 0x55, 0xe9, 0, 0, 0, 0, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55};

	assert_int_equal(neon_pgpatch_movable_prologue(usual, sizeof(usual), 14), 15);
	assert_int_equal(neon_pgpatch_movable_prologue(usual, 13, 14), 0);
	assert_int_equal(neon_pgpatch_movable_prologue(rip_relative, sizeof(rip_relative), 14), 0);
	assert_int_equal(neon_pgpatch_movable_prologue(jump, sizeof(jump), 14), 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_table_found_once),
		cmocka_unit_test(test_calls_counted),
		cmocka_unit_test(test_write_and_protect),
		cmocka_unit_test(test_first_failure_is_kept),
		cmocka_unit_test(test_detour_refuses),
		cmocka_unit_test(test_movable_prologue),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
