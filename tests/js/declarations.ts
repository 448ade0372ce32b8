/**
 * What differs between the client (`actual`) and its hand-written types (`declared`): the name of every difference is an error of
 * the compiler. types.test.mjs lays both files beside this one, the client under a name that has no types of its own.
 */
import * as actual from "./actual.js";
import * as declared from "./robodyne-client.js";

/** Stands for no name at all; a name that is left is told as "Type '...' does not satisfy the constraint 'never'". */
type None<Names extends never> = Names;

type AnyFunction = (...args: any) => any;
type AnyClass = abstract new (...args: any) => any;
/** What `private constructor` hides. */
type Instance<C> = C extends { prototype: infer I } ? I : never;
type Public<T> = T extends object ? { [Name in keyof T as Name extends `_${string}` ? never : Name]: T[Name] } : T;

/** How many arguments may be given: `1 | 2` where the second may be left out. */
type Arity<F> = F extends AnyFunction ? Parameters<F>["length"] : F extends AnyClass ? ConstructorParameters<F>["length"] : "none";
type Same<A, B> = [A] extends [B] ? ([B] extends [A] ? true : false) : false;
type Parameter<F> = F extends AnyFunction ? Parameters<F> : F extends AnyClass ? ConstructorParameters<F> : [];
type Result<F> = F extends AnyFunction ? ReturnType<F> : F extends AnyClass ? unknown : F;
/** Plain in both, so that two classes of one name are compared by their members, in a line of their own below. */
type Alike<A, D> =
  Same<Arity<A>, Arity<D>> extends true
    ? [Parameter<D>] extends [Parameter<A>]
      ? [Public<Result<A>>] extends [Public<Result<D>>]
        ? true
        : false
      : false
    : false;

type Missing<A, D> = Exclude<keyof A, keyof D> | Exclude<keyof D, keyof A>;
type Different<A, D> = { [Name in keyof A & keyof D]: Alike<A[Name], D[Name]> extends true ? never : Name }[keyof A & keyof D];
type Differences<A, D> = Missing<A, D> | Different<A, D>;

type Actual = typeof actual;
type Declared = typeof declared;

export type Exports = None<Missing<Actual, Declared>>;
export type Signatures = None<Different<Omit<Actual, "Subscription">, Omit<Declared, "Subscription">>>;
/** Every class that both export. */
type Members = {
  [Name in keyof Actual & keyof Declared]: Actual[Name] extends AnyClass
    ? Differences<Public<Instance<Actual[Name]>>, Public<Instance<Declared[Name]>>> extends infer Found
      ? Found extends string
        ? `${Name}.${Found}`
        : never
      : never
    : never;
}[keyof Actual & keyof Declared];
export type ClassMembers = None<Members>;
