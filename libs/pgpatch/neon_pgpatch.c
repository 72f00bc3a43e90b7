/*
 * neon_pgpatch.c - searching an executable in memory and changing it, without knowledge of PostgreSQL.
 *
 * A change is: make the pages writable (and not executable), copy, give them their final protection.  The server is still
 * single-threaded and alone when preloaded libraries are initialised, so no other code can run in between.
 *
 * amd64 only: a detour is ff 25 00 00 00 00 (jmp *[rip+0]) followed by the absolute target.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "neon_pgpatch.h"

#include <dlfcn.h>
#include <elf.h>
#include <emmintrin.h>
#include <errno.h>
#include <link.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef __x86_64__
#error "neon_pgpatch knows amd64 only"
#endif

void
neon_pgpatch_report_init(neon_pgpatch_report *report)
{
	memset(report, 0, sizeof(*report));
	report->ok = true;
}

bool
neon_pgpatch_fail(neon_pgpatch_report *report, const char *fmt,...)
{
	va_list		ap;

	if (report->ok)
	{
		report->ok = false;
		va_start(ap, fmt);
		vsnprintf(report->error, sizeof(report->error), fmt, ap);
		va_end(ap);
	}
	return false;
}

typedef struct locate_arg
{
	uintptr_t	probe;
	neon_pgpatch_image *image;
	bool		found;
} locate_arg;

static bool
object_contains(const struct dl_phdr_info *info, uintptr_t probe)
{
	for (int i = 0; i < info->dlpi_phnum; i++)
	{
		const		ElfW(Phdr) *ph = &info->dlpi_phdr[i];

		if (ph->p_type == PT_LOAD && probe >= info->dlpi_addr + ph->p_vaddr &&
			probe < info->dlpi_addr + ph->p_vaddr + ph->p_memsz)
			return true;
	}
	return false;
}

static int
locate_callback(struct dl_phdr_info *info, size_t size, void *data)
{
	locate_arg *arg = data;

	if (!object_contains(info, arg->probe))
		return 0;
	arg->found = true;
	arg->image->base = info->dlpi_addr;
	for (int i = 0; i < info->dlpi_phnum; i++)
	{
		const		ElfW(Phdr) *ph = &info->dlpi_phdr[i];
		uintptr_t	lo = info->dlpi_addr + ph->p_vaddr;

		if (ph->p_type == PT_GNU_RELRO)
		{
			arg->image->relro_lo = lo;
			arg->image->relro_hi = lo + ph->p_memsz;
		}
		else if (ph->p_type == PT_LOAD && (ph->p_flags & PF_X))
		{
			arg->image->text_lo = lo;
			arg->image->text_hi = lo + ph->p_memsz;
		}
		else if (ph->p_type == PT_DYNAMIC)
			arg->image->dynamic = (const void *) lo;
	}
	return 1;
}

bool
neon_pgpatch_locate(const void *probe, neon_pgpatch_image *image, neon_pgpatch_report *report)
{
	locate_arg	arg = {.probe = (uintptr_t) probe,.image = image};

	memset(image, 0, sizeof(*image));
	dl_iterate_phdr(locate_callback, &arg);
	if (!arg.found)
		return neon_pgpatch_fail(report, "No loaded object contains the address %p.", probe);
	if (image->relro_hi == 0 || image->text_hi == 0 || image->dynamic == NULL)
		return neon_pgpatch_fail(report, "The server's executable has no RELRO, code or dynamic segment.");
	return true;
}

int
neon_pgpatch_find_words(uintptr_t lo, uintptr_t hi, const uintptr_t *words, size_t n, uintptr_t *hit)
{
	size_t		len = n * sizeof(uintptr_t);
	int			found = 0;

	for (uintptr_t p = (lo + 7) & ~(uintptr_t) 7; p + len <= hi; p += sizeof(uintptr_t))
	{
		if (memcmp((const void *) p, words, len) == 0)
		{
			*hit = p;
			found++;
		}
	}
	return found;
}

/* Where the near call or jump at p goes; 0 when there is none.  Five bytes are readable. */
static inline uintptr_t
call_target(uintptr_t p)
{
	uint8_t		opcode = *(const uint8_t *) p;
	int32_t		relative;

	if (opcode != 0xe8 && opcode != 0xe9)
		return 0;
	memcpy(&relative, (const void *) (p + 1), sizeof(relative));
	return p + 5 + (uintptr_t) (intptr_t) relative;
}

/* Every byte of the server's code is looked at: opcodes are found 16 bytes at a time. */
void
neon_pgpatch_each_call(uintptr_t lo, uintptr_t hi, uintptr_t target_lo, uintptr_t target_hi,
					   uintptr_t skip_lo, uintptr_t skip_hi, neon_pgpatch_call_fn fn, void *arg)
{
	const __m128i call = _mm_set1_epi8((char) 0xe8);
	const __m128i jump = _mm_set1_epi8((char) 0xe9);
	uintptr_t	p = lo;

	while (p + 5 <= hi)
	{
		unsigned	hits = 1;
		unsigned	width = 1;

		if (p + 16 + 4 <= hi)
		{
			__m128i		code = _mm_loadu_si128((const __m128i *) p);

			hits = (unsigned) _mm_movemask_epi8(_mm_or_si128(_mm_cmpeq_epi8(code, call), _mm_cmpeq_epi8(code, jump)));
			width = 16;
		}
		for (; hits != 0; hits &= hits - 1)
		{
			uintptr_t	at = p + (unsigned) __builtin_ctz(hits);
			uintptr_t	target = call_target(at);

			if (target >= target_lo && target < target_hi && target != 0 && !(at >= skip_lo && at < skip_hi))
				fn(target, arg);
		}
		p += width;
	}
}

static void
count_one(uintptr_t target, void *arg)
{
	(*(int *) arg)++;
}

int
neon_pgpatch_count_calls(uintptr_t lo, uintptr_t hi, uintptr_t target, uintptr_t skip_lo, uintptr_t skip_hi)
{
	int			found = 0;

	neon_pgpatch_each_call(lo, hi, target, target + 1, skip_lo, skip_hi, count_one, &found);
	return found;
}

bool
neon_pgpatch_write(void *dst, const void *src, size_t len, int final_prot, neon_pgpatch_report *report)
{
	uintptr_t	page = (uintptr_t) sysconf(_SC_PAGESIZE);
	uintptr_t	lo = (uintptr_t) dst & ~(page - 1);
	uintptr_t	hi = ((uintptr_t) dst + len + page - 1) & ~(page - 1);

	if (mprotect((void *) lo, hi - lo, PROT_READ | PROT_WRITE) < 0)
		return neon_pgpatch_fail(report, "Memory at %p cannot be made writable: %s.", dst, strerror(errno));
	memcpy(dst, src, len);
	if (mprotect((void *) lo, hi - lo, final_prot) < 0)
		return neon_pgpatch_fail(report, "Memory at %p cannot be protected again: %s.", dst, strerror(errno));
	return true;
}

static const uint8_t detour_opcode[6] = {0xff, 0x25, 0, 0, 0, 0};

static void
encode_jump(uint8_t code[NEON_PGPATCH_DETOUR_BYTES], const void *target)
{
	memcpy(code, detour_opcode, sizeof(detour_opcode));
	memcpy(code + sizeof(detour_opcode), &target, sizeof(target));
}

/* Everything that must hold before the entry of a function is overwritten; *size gets its length. */
static bool
check_detour(const neon_pgpatch_image *image, const char *name, void *function, size_t *size, neon_pgpatch_report *report)
{
	Dl_info		info;
	const		ElfW(Sym) *symbol = NULL;
	uintptr_t	at = (uintptr_t) function;

	if (at < image->text_lo || at + NEON_PGPATCH_DETOUR_BYTES > image->text_hi)
		return neon_pgpatch_fail(report, "The function %s is not in the server's code.", name);
	if (dladdr1(function, &info, (void **) &symbol, RTLD_DL_SYMENT) == 0 || symbol == NULL ||
		info.dli_saddr != function || strcmp(info.dli_sname, name) != 0)
		return neon_pgpatch_fail(report, "The server does not export the function %s.", name);
	if (symbol->st_size < NEON_PGPATCH_DETOUR_BYTES)
		return neon_pgpatch_fail(report, "The function %s has %zu bytes, too few for a detour of %d.",
								 name, (size_t) symbol->st_size, NEON_PGPATCH_DETOUR_BYTES);
	if (memcmp(function, detour_opcode, sizeof(detour_opcode)) == 0)
		return neon_pgpatch_fail(report, "The function %s has been detoured already.", name);
	if (neon_pgpatch_count_calls(image->text_lo, image->text_hi, at, 0, 0) == 0)
		return neon_pgpatch_fail(report, "No call of the function %s was found in the server's code.", name);
	*size = symbol->st_size;
	return true;
}

bool
neon_pgpatch_detour(const neon_pgpatch_image *image, const char *name, void *function, void *replacement,
					neon_pgpatch_report *report)
{
	uint8_t		code[NEON_PGPATCH_DETOUR_BYTES];
	size_t		size;

	if (!check_detour(image, name, function, &size, report))
		return false;
	encode_jump(code, replacement);
	if (!neon_pgpatch_write(function, code, sizeof(code), PROT_READ | PROT_EXEC, report))
		return false;
	report->detours++;
	return true;
}

/*
 * Length of one instruction that can be executed at another address; 0 when unknown.  Only what compilers put into
 * prologues: nothing relative to the instruction pointer, no control flow.
 */
static size_t
movable_instruction(const uint8_t *p, size_t len)
{
	static const uint8_t endbr64[4] = {0xf3, 0x0f, 0x1e, 0xfa};
	size_t		n = 0;
	uint8_t		opcode,
				modrm;

	if (len >= 4 && memcmp(p, endbr64, 4) == 0)
		return 4;
	if (n < len && (p[n] & 0xf0) == 0x40)	/* REX */
		n++;
	if (n >= len)
		return 0;
	opcode = p[n++];
	if (opcode >= 0x50 && opcode <= 0x57)	/* push register */
		return n;
	if (n >= len)
		return 0;
	modrm = p[n++];
	if (opcode == 0x83 && modrm == 0xec)	/* sub imm8, rsp */
		return n + 1;
	if (opcode == 0x81 && modrm == 0xec)	/* sub imm32, rsp */
		return n + 4;
	if (opcode != 0x89 && opcode != 0x8b && opcode != 0x31 && opcode != 0x33 && opcode != 0x85 && opcode != 0x8d)
		return 0;
	switch (modrm >> 6)
	{
		case 3:					/* register to register */
			return opcode == 0x8d ? 0 : n;
		case 0:					/* [rip+disp32] and [disp32] are not movable by copying */
			if ((modrm & 7) == 5)
				return 0;
			if ((modrm & 7) == 4)
				return n < len && (p[n] & 7) != 5 ? n + 1 : 0;
			return n;
		case 1:
			return n + ((modrm & 7) == 4 ? 2 : 1);
		default:
			return n + ((modrm & 7) == 4 ? 5 : 4);
	}
}

size_t
neon_pgpatch_movable_prologue(const uint8_t *code, size_t len, size_t need)
{
	size_t		done = 0;

	while (done < need)
	{
		size_t		n = done < len ? movable_instruction(code + done, len - done) : 0;

		if (n == 0 || done + n > len)
			return 0;
		done += n;
	}
	return done;
}

bool
neon_pgpatch_wrap(const neon_pgpatch_image *image, const char *name, void *function, void *replacement,
				  void **original, neon_pgpatch_report *report)
{
	uint8_t		code[NEON_PGPATCH_DETOUR_BYTES];
	size_t		size,
				moved,
				page = (size_t) sysconf(_SC_PAGESIZE);
	uint8_t    *copy;

	if (!check_detour(image, name, function, &size, report))
		return false;
	moved = neon_pgpatch_movable_prologue(function, size, sizeof(code));
	if (moved == 0)
		return neon_pgpatch_fail(report, "The function %s does not begin with instructions that can be moved.", name);

	copy = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (copy == MAP_FAILED)
		return neon_pgpatch_fail(report, "No memory for the entry of %s: %s.", name, strerror(errno));
	memcpy(copy, function, moved);
	encode_jump(copy + moved, (const uint8_t *) function + moved);
	if (mprotect(copy, page, PROT_READ | PROT_EXEC) < 0)
		return neon_pgpatch_fail(report, "Memory for the entry of %s cannot be protected: %s.", name, strerror(errno));

	encode_jump(code, replacement);
	*original = copy;			/* before the first call can come */
	if (!neon_pgpatch_write(function, code, sizeof(code), PROT_READ | PROT_EXEC, report))
		return false;
	report->detours++;
	return true;
}

bool
neon_pgpatch_import(const neon_pgpatch_image *image, const char *symbol, void *replacement, void **old,
					neon_pgpatch_report *report)
{
	const		ElfW(Sym) *symbols = NULL;
	const char *strings = NULL;
	const		ElfW(Rela) *tables[2] = {NULL, NULL};
	size_t		sizes[2] = {0, 0};
	void	  **slot = NULL;
	int			found = 0;

	for (const ElfW(Dyn) *d = image->dynamic; d->d_tag != DT_NULL; d++)
	{
		if (d->d_tag == DT_SYMTAB)
			symbols = (const void *) d->d_un.d_ptr;
		else if (d->d_tag == DT_STRTAB)
			strings = (const void *) d->d_un.d_ptr;
		else if (d->d_tag == DT_JMPREL)
			tables[0] = (const void *) d->d_un.d_ptr;
		else if (d->d_tag == DT_PLTRELSZ)
			sizes[0] = d->d_un.d_val;
		else if (d->d_tag == DT_RELA)
			tables[1] = (const void *) d->d_un.d_ptr;
		else if (d->d_tag == DT_RELASZ)
			sizes[1] = d->d_un.d_val;
	}
	if (symbols == NULL || strings == NULL)
		return neon_pgpatch_fail(report, "The server's executable has no dynamic symbol table.");
	for (int t = 0; t < 2; t++)
	{
		for (size_t i = 0; tables[t] != NULL && i < sizes[t] / sizeof(ElfW(Rela)); i++)
		{
			const		ElfW(Rela) *r = &tables[t][i];
			uint32_t	type = ELF64_R_TYPE(r->r_info);

			if ((type == R_X86_64_JUMP_SLOT || type == R_X86_64_GLOB_DAT) &&
				strcmp(strings + symbols[ELF64_R_SYM(r->r_info)].st_name, symbol) == 0)
			{
				slot = (void **) (image->base + r->r_offset);
				found++;
			}
		}
	}
	if (found != 1)
		return neon_pgpatch_fail(report, "The server imports %s %d times, expected once.", symbol, found);
	if ((uintptr_t) slot < image->relro_lo || (uintptr_t) slot >= image->relro_hi)
		return neon_pgpatch_fail(report, "The server's import of %s is bound lazily.", symbol);
	*old = *slot;
	if (!neon_pgpatch_write(slot, &replacement, sizeof(replacement), PROT_READ, report))
		return false;
	report->imports++;
	return true;
}
